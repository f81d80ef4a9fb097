"""Tests of the plan of a comparison, the grids and the schedules."""

import math
from dataclasses import asdict

import pytest

from novograd.compare.optimizers import OPTIMIZERS, grid
from novograd.compare.plan import (
    MOST_BEYOND,
    Settings,
    chosen_rate,
    key,
    learning_rates,
    planned,
)
from novograd.compare.training import SCHEDULES, schedule
from tests.compare.made import row

RATES = [0.001, 0.003, 0.01, 0.03, 0.1]
NAMES = ["novograd", "adam"]


def settings(**changes):
    usual = {"task": "digits", "framework": "torch", "seeds": 5, "steps": 4, "quick": False}
    rates = dict.fromkeys(NAMES, RATES)
    return Settings(**{**usual, "schedule": "cosine", "learning_rates": rates, **changes})


def best_at(best):
    """Returns the score of a run whose learning rate should be ``best``."""
    return lambda run: -abs(math.log(run.learning_rate / best))


def stages(settings, score, higher_is_better=True):
    """Plans and does stage after stage with made scores; returns the runs of each stage.

    A score of None means that the run diverged.
    """
    ended, found = [], []
    while True:
        runs = planned(settings, ended, higher_is_better)
        done = {key(one) for one in ended}
        assert [key(asdict(run)) for run in runs[: len(ended)]] == [key(one) for one in ended]
        more = [run for run in runs if key(asdict(run)) not in done]
        if not more:
            return found
        found.append(more)
        for run in more:
            made = row(run.optimizer, run.learning_rate, run.seed, score(run) or 0.0)
            if score(run) is None:
                made |= {"status": "diverged", "diverged_at": 1}
            ended.append(made)


def rates(runs, name="novograd"):
    return [run.learning_rate for run in runs if run.optimizer == name]


def test_the_search_has_one_seed_and_every_rate_starting_in_the_middle():
    search, *_ = stages(settings(), best_at(0.01))
    assert {(run.seed, run.part) for run in search} == {(0, "validation")}
    assert rates(search, "adam") == [0.01, 0.003, 0.03, 0.001, 0.1]
    assert [run.optimizer for run in search] == NAMES * 5


def test_two_more_seeds_choose_between_the_two_best_rates():
    _, choice, _ = stages(settings(), best_at(0.012))
    assert {run.part for run in choice} == {"validation"}
    assert [(run.seed, run.optimizer, run.learning_rate) for run in choice] == [
        (seed, name, rate) for seed in (1, 2) for name in NAMES for rate in (0.01, 0.03)
    ]


def test_the_median_of_three_seeds_decides():
    def score(run):  # seed 0 prefers 0.01, and the others prefer 0.03
        return best_at(0.01 if run.seed == 0 else 0.03)(run)

    *_, judgement = stages(settings(), score)
    assert {*rates(judgement)} == {0.03}


def test_other_seeds_judge_on_the_test_part():
    *_, judgement = stages(settings(), best_at(0.01))
    assert [(run.seed, run.optimizer) for run in judgement] == [
        (seed, name) for seed in range(3, 8) for name in NAMES
    ]
    assert {(run.part, run.learning_rate) for run in judgement} == {("test", 0.01)}


def test_quick_judges_the_best_rate_of_the_search():
    search, judgement = stages(settings(quick=True, seeds=3), best_at(0.03))
    assert len(search) == 2 * 5
    assert {(run.seed, run.part, run.learning_rate) for run in judgement} == {
        (seed, "test", 0.03) for seed in (3, 4, 5)
    }


def test_a_single_given_rate_is_only_judged():
    alone, judgement = {"novograd": RATES, "adam": [0.5]}, []
    search, *_, judgement = stages(settings(learning_rates=alone), best_at(0.01))
    assert rates(search, "adam") == []
    assert rates(judgement, "adam") == [0.5] * 5


def test_the_search_goes_on_until_both_neighbours_of_the_best_rate_are_worse():
    found = stages(settings(extended=["novograd"]), best_at(0.5))
    beyond = [runs for runs in found if {run.seed for run in runs} == {0}][1:]
    assert [rates(runs) for runs in beyond] == [[0.3], [1.0]]
    found = stages(settings(extended=["novograd"]), best_at(0.0007))
    assert [rates(runs) for runs in found[1:3]] == [[0.0003], *[[0.001, 0.0003] * 2]]
    assert len(stages(settings(extended=NAMES), best_at(0.01))) == 3
    assert {*rates(stages(settings(), best_at(5.0))[-1])} == {0.1}  # given rates are not extended


def test_the_search_ends_after_some_rates_beyond_the_grid():
    given = {"novograd": [1e-6, 3e-6]}
    found = stages(settings(learning_rates=given, extended=["novograd"]), best_at(1.0))
    tried = {*rates(run for runs in found for run in runs)}
    assert sorted(tried) == pytest.approx([1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4])
    assert len(tried) == 2 + MOST_BEYOND


def test_a_rate_that_diverged_is_worse():
    def score(run):
        return None if run.learning_rate > 0.1 else best_at(0.5)(run)

    *others, judgement = stages(settings(extended=["novograd"]), score)
    assert max(rates(run for runs in others for run in runs)) == 0.3
    assert {*rates(judgement)} == {0.1}


def test_a_rate_at_which_a_later_seed_diverged_is_not_chosen():
    def score(run):
        return None if (run.seed, run.learning_rate) == (2, 0.01) else best_at(0.01)(run)

    *_, judgement = stages(settings(), score)
    assert 0.01 not in rates(judgement)


def test_lower_can_be_better():
    *_, judgement = stages(settings(), lambda run: -best_at(0.003)(run), higher_is_better=False)
    assert {*rates(judgement)} == {0.003}


def test_an_optimizer_without_a_finished_run_is_not_judged():
    found = stages(settings(), lambda run: None if run.optimizer == "adam" else best_at(0.01)(run))
    assert {run.optimizer for runs in found[1:] for run in runs} == {"novograd"}
    assert chosen_rate("adam", [], higher_is_better=True) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("framework", ["tensorflow", "torch", "jax"])
def test_grids_contain_the_default_rate(name, framework):
    found = learning_rates(name, framework)
    assert {*grid(OPTIMIZERS[name].middle, 7)} <= {*found}
    default = OPTIMIZERS[name].defaults.get(framework)
    assert default is None or default in found
    assert len(learning_rates(name, framework, quick=True)) == 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_for_a_tenth_of_the_steps_and_then_never_rise(name):
    found = [schedule(name, step, 100, 0.5) for step in range(1, 101)]
    assert found[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert found[9:] == sorted(found[9:], reverse=True)
    assert found[-1] > 0
    assert schedule(name, 40, 400, 0.5) == 0.5 > schedule(name, 39, 400, 0.5)
    assert schedule(name, 1, 1, 0.5) == 0.5  # one step reaches the peak


def test_schedules_by_hand():
    step = 10 + 91 // 3  # a third of the way down
    part = (step - 10) / 91
    assert schedule("constant", step, 100, 1.0) == 1
    assert schedule("poly", step, 100, 1.0) == pytest.approx((1 - part) ** 2)
    assert schedule("cosine", 55, 99, 1.0) == pytest.approx(0.5)
