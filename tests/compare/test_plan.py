"""Tests of the plan of a comparison, the grids and the schedules."""

import math

import pytest

from novograd.compare.optimizers import OPTIMIZERS, grid
from novograd.compare.plan import (
    MOST_BEYOND,
    Settings,
    beyond,
    learning_rates,
    repeats,
    search,
)
from novograd.compare.training import SCHEDULES, schedule
from tests.compare.made import row

RATES = [0.001, 0.003, 0.01, 0.03, 0.1]


def settings(**changes):
    usual = {"task": "digits", "framework": "torch", "seeds": 3, "steps": 4, "quick": False}
    rates = {"novograd": RATES, "adam": RATES}
    return Settings(**{**usual, "schedule": "cosine", "learning_rates": rates, **changes})


def test_the_search_has_one_seed_and_every_rate_starting_in_the_middle():
    runs = search(settings())
    assert {run.seed for run in runs} == {0}
    assert [run.learning_rate for run in runs if run.optimizer == "adam"] == [
        0.01, 0.003, 0.03, 0.001, 0.1,
    ]  # fmt: skip
    assert [run.optimizer for run in runs] == ["novograd", "adam"] * 5


def searched(best):
    scores = {rate: 1 - abs(RATES.index(rate) - RATES.index(best)) / 10 for rate in RATES}
    return [row(name, rate, 0, scores[rate]) for name in ("novograd", "adam") for rate in RATES]


def test_other_seeds_run_at_the_best_rate_its_neighbours_and_the_default():
    runs = repeats(settings(), searched(best=0.03), higher_is_better=True)
    for name, default in (("novograd", 0.01), ("adam", 0.001)):
        for seed in (1, 2):
            rates = {r.learning_rate for r in runs if (r.optimizer, r.seed) == (name, seed)}
            assert rates == {default, 0.01, 0.03, 0.1}
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def extended(runs, **changes):
    """Runs the search with made scores until it ends; returns the tried rates of novograd."""
    rows = list(runs)
    while more := beyond(settings(extended=["novograd"], **changes), rows, higher_is_better=True):
        assert {(run.optimizer, run.seed) for run in more} == {("novograd", 0)}
        rows += [row("novograd", run.learning_rate, 0, score(run.learning_rate)) for run in more]
    return sorted(run["learning_rate"] for run in rows if run["optimizer"] == "novograd")


def score(rate):
    return -abs(math.log(rate / 0.5))  # best at 0.5


def test_the_search_goes_on_until_both_neighbours_of_the_best_rate_are_worse():
    rows = [row("novograd", rate, 0, score(rate)) for rate in RATES]
    assert extended(rows) == [*RATES, 0.3, 1.0]
    rows = [row("novograd", rate, 0, score(rate)) for rate in (3.0, 10.0)]
    assert extended(rows, learning_rates={"novograd": [3.0, 10.0]}) == [0.1, 0.3, 1.0, 3.0, 10.0]
    assert extended(searched(best=0.01)) == RATES


def test_the_search_ends_after_some_rates_beyond_the_grid():
    rows = [row("novograd", 1e-6, 0, score(1e-6))]
    tried = extended(rows, learning_rates={"novograd": [1e-6]})
    assert tried == pytest.approx([1e-6, 3e-6, 1e-5, 3e-5, 1e-4])
    assert len(tried) == 1 + MOST_BEYOND


def test_a_rate_that_diverged_is_worse_and_given_rates_are_not_extended():
    rows = [row("novograd", rate, 0, score(rate)) for rate in (0.03, 0.1)]
    ended = [*rows, {**rows[0], "learning_rate": 0.3, "status": "diverged"}]
    assert beyond(settings(extended=["novograd"]), ended, higher_is_better=True) == []
    assert beyond(settings(), rows, higher_is_better=True) == []


def test_other_seeds_run_at_rates_beyond_the_grid():
    rows = [*searched(best=0.1), row("novograd", 0.3, 0, 2.0), row("novograd", 1.0, 0, 1.0)]
    runs = repeats(settings(), rows, higher_is_better=True)
    assert {run.learning_rate for run in runs if run.optimizer == "novograd"} == {
        0.01, 0.1, 0.3, 1.0,
    }  # fmt: skip


def test_lower_can_be_better():
    runs = repeats(settings(quick=True), searched(best=0.003), higher_is_better=False)
    assert {run.learning_rate for run in runs} == {0.1}


def test_quick_repeats_only_the_best_rate():
    runs = repeats(settings(quick=True), searched(best=0.03), higher_is_better=True)
    assert {run.learning_rate for run in runs} == {0.03}
    assert len(runs) == 2 * 2


def test_an_optimizer_without_a_finished_run_gets_no_other_runs():
    rows = [
        run | {"status": "diverged", "diverged_at": 1} if run["optimizer"] == "adam" else run
        for run in searched(best=0.03)
    ]
    runs = repeats(settings(), rows, higher_is_better=True)
    assert {run.optimizer for run in runs} == {"novograd"}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("framework", ["tensorflow", "torch", "jax"])
def test_grids_contain_the_default_rate(name, framework):
    rates = learning_rates(name, framework)
    assert {*grid(OPTIMIZERS[name].middle, 7)} <= {*rates}
    default = OPTIMIZERS[name].defaults.get(framework)
    assert default is None or default in rates
    assert len(learning_rates(name, framework, quick=True)) == 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_for_a_tenth_of_the_steps_and_then_never_rise(name):
    rates = [schedule(name, step, 100, 0.5) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] > 0
    assert schedule(name, 40, 400, 0.5) == 0.5 > schedule(name, 39, 400, 0.5)
    assert schedule(name, 1, 1, 0.5) == 0.5  # one step reaches the peak


def test_schedules_by_hand():
    step = 10 + 91 // 3  # a third of the way down
    part = (step - 10) / 91
    assert schedule("constant", step, 100, 1.0) == 1
    assert schedule("poly", step, 100, 1.0) == pytest.approx((1 - part) ** 2)
    assert schedule("cosine", 55, 99, 1.0) == pytest.approx(0.5)
