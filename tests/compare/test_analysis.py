"""Tests of the analysis, the sentences and the tables, with invented results."""

import pytest
from rich.console import Console

from novograd.compare import tables
from novograd.compare.analysis import analyse, standing
from novograd.compare.sentences import ranking, remarks, robust
from tests.compare.made import results, row


def novograd(*scores, rate=0.01, **more):
    return [row("novograd", rate, seed, score, **more) for seed, score in enumerate(scores)]


def adam(*scores, rate=0.001):
    return [row("adam", rate, seed, score) for seed, score in enumerate(scores)]


def test_the_best_rate_has_the_best_median_among_the_rates_with_all_seeds():
    runs = [*novograd(0.9, rate=0.1), *novograd(0.7, 0.8, 0.6, rate=0.03), *novograd(0.5, 0.6, 0.6)]
    (found,) = analyse(results(runs)).summaries
    assert (found.best.rate, found.best.median) == (0.03, 0.7)
    assert found.best.worst_to_best == (0.6, 0.8)
    assert found.metrics == {"accuracy": 0.7, "other": 3.0}
    assert (found.step_ms, found.update_ms, found.share) == (11.0, 1.0, 1 / 11)
    assert [point.rate for point in found.points] == [0.01, 0.03, 0.1]


def test_lower_is_better_if_the_task_says_this():
    runs = [*novograd(0.9, 0.8, rate=0.1), *novograd(0.5, 0.6), *adam(0.7, 0.8)]
    task = results(runs)["task"] | {"higher_is_better": False}
    found, other = analyse(results(runs, task=task)).summaries
    assert found.best.rate == 0.01
    assert ranking(analyse(results(runs, task=task))) == [
        "NovoGrad is ahead of Adam by 0.2 accuracy."
    ]
    assert (found.steps_to_target, other.steps_to_target) == (2, 2)  # target 0.75


def test_the_range_as_good_as_the_best():
    scores = {0.001: 0.7, 0.003: 0.88, 0.01: 0.9, 0.03: 0.86, 0.1: 0.8, 0.3: 0.89}
    runs = [run for rate, score in scores.items() for run in novograd(score, rate=rate)]
    (found,) = analyse(results(runs)).summaries
    assert found.as_good == (0.003, 0.03)  # 0.3 is as good, but 0.1 in between is not
    assert not found.open_ended
    assert robust(found) == "0.003-0.03 (10x)"
    (found,) = analyse(results(runs[1:3])).summaries
    assert found.as_good == (0.003, 0.01)
    assert found.open_ended
    assert robust(found) == "0.003-0.01 (>=3.33x)"
    (found,) = analyse(results(runs[1:2])).summaries
    assert robust(found) == "0.003 or wider"


def test_a_rate_at_which_a_seed_diverged_is_not_as_good():
    ended = row("novograd", 0.03, 1, 0.9) | {"status": "diverged", "diverged_at": 3}
    runs = [*novograd(0.9, 0.9), row("novograd", 0.03, 0, 0.9), ended]
    (found,) = analyse(results(runs)).summaries
    assert found.as_good == (0.01, 0.01)
    assert robust(found) == "0.01 or wider"
    assert "Diverged: NovoGrad, learning rate 0.03, seed 1." in remarks(analyse(results(runs)))


def test_the_default_rate_is_that_of_the_framework():
    runs = [*novograd(0.5, 0.6), *novograd(0.8, 0.9, rate=0.1)]
    (found,) = analyse(results(runs)).summaries
    assert (found.default.rate, found.default.median) == (0.01, 0.55)
    settings = results(runs)["settings"] | {"framework": "jax"}
    (found,) = analyse(results(runs, settings=settings)).summaries
    assert found.default is None  # optax has none


def test_the_target_is_the_worst_of_the_best_medians():
    runs = [*novograd(0.5, 0.5, 0.5), *adam(0.8, 0.99, 1.0)]
    assert analyse(results(runs)).target == 0.5
    last, first = analyse(results(runs)).summaries
    assert last.steps_to_target == 4
    assert first.steps_to_target == 4  # scores at step 2: 0.4, 0.495, 0.5; median step: 4
    (alone,) = analyse(results(novograd(0.5, 0.4, 0.6))).summaries
    assert alone.steps_to_target is None  # one seed never reached its median


def test_overlapping_ranges_tie_and_losses_are_reported():
    runs = [*novograd(0.70, 0.74, 0.78), *adam(0.77, 0.79, 0.80), row("sgd", 0.1, 0, 0.9)]
    runs.append(row("sgd", 0.1, 1, 0.92))
    assert ranking(analyse(results(runs))) == [
        "SGD, Nesterov is ahead of Adam by 0.12 accuracy.",
        "SGD, Nesterov is ahead of NovoGrad by 0.17 accuracy.",
        "Adam and NovoGrad tie: their ranges over seeds overlap.",
    ]


def test_standing_of_an_optimizer():
    runs = [*novograd(0.70, 0.74, 0.78), *adam(0.77, 0.79, 0.80), *adam(0.1, 0.2, 0.3, rate=0.1)]
    runs += [run | {"optimizer": "sgd", "learning_rate": 0.1} for run in adam(0.9, 0.9, 0.95)]
    runs += [run | {"optimizer": "adamw"} for run in adam(0.5, 0.6, 0.65)]
    runs += [run | {"optimizer": "novograd:rows"} for run in adam(0.0, 0.0, 0.0)]  # same algorithm
    assert standing(analyse(results(runs)), "novograd") == {
        "wins against": ["adamw"],
        "ties with": ["adam"],
        "loses to": ["sgd"],
    }


def test_one_seed_is_not_ranked():
    assert ranking(analyse(results([*novograd(0.7), *adam(0.9)]))) == [
        "Adam and NovoGrad are not ranked: at least two seeds are needed."
    ]


def test_a_best_rate_at_an_end_of_the_search_is_reported():
    runs = [*novograd(0.5), *novograd(0.9, rate=0.1)]
    said = remarks(analyse(results(runs)))
    assert any("NovoGrad: the best learning rate is at an end of the search" in x for x in said)


def test_failures_and_interruptions_are_reported():
    failed = {**row("adam", 0.1, 2, 0.5), "status": "failed", "error": "KeyError: [red]"}
    said = remarks(analyse(results([failed], status="interrupted", planned=9)))
    assert "Interrupted: 1 of 9 runs ended." in said
    assert "Adam, learning rate 0.1, seed 2: failed: KeyError: [red]." in said


def test_results_without_a_finished_run_have_no_summary():
    diverged = [{**run, "status": "diverged", "diverged_at": 1} for run in novograd(0.5)]
    assert analyse(results(diverged)).summaries == ()
    assert analyse(results(diverged)).target is None
    assert ranking(analyse(results(diverged))) == []


@pytest.mark.parametrize("table", [tables.quality, tables.cost])
def test_tables_fit_eighty_columns(table, capsys):
    runs = [
        run | {"optimizer": name, "state_bytes": 123_456_789}
        for name in ("novograd", "novograd:rows", "adamw")
        for run in [*novograd(0.712345, 0.74, 0.78), *novograd(0.61, 0.65, 0.66, rate=0.1)]
    ]
    Console(width=80, markup=False).print(tables.terminal(table(analyse(results(runs)))))
    lines = capsys.readouterr().out.splitlines()
    assert all("…" not in line for line in lines)
    assert any("NovoGrad, rows" in line for line in lines)


def test_the_tables_contain_the_numbers(capsys):
    runs = [*novograd(0.70, 0.74, 0.78), *novograd(0.6, 0.7, 0.71, rate=0.1)]
    for table in (tables.quality, tables.cost):
        Console(width=80, markup=False).print(tables.terminal(table(analyse(results(runs)))))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "NovoGrad 0.01 0.740 (0.700-0.780) 3 0.740 (0.01)" in lines
    assert "NovoGrad 0.01-0.1 (>=10x) - 1,234 11 1 9%" in lines
