"""Tests of the analysis, the sentences and the tables, with invented results."""

import pytest
from rich.console import Console

from novograd.compare import tables
from novograd.compare.analysis import Times, analyse
from novograd.compare.sentences import cautions, good_rates, remarks, verdict
from tests.compare.made import judged, results, row, searched

SEARCH = {0.001: 0.7, 0.003: 0.88, 0.01: 0.9, 0.03: 0.86, 0.1: 0.8, 0.3: 0.89}


def test_judged_runs_give_the_results():
    runs = [*searched("novograd", SEARCH), *judged("novograd", 0.7, 0.8, 0.6)]
    (found,) = analyse(results(runs)).summaries
    assert (found.judged.rate, found.judged.median) == (0.01, 0.7)
    assert found.judged.lowest_to_highest == (0.6, 0.8)
    assert found.metrics == {"accuracy": 0.7, "other": 6.0}
    assert found.times == {"": Times(runs=3, step_ms=14.0, update_ms=1.0)}
    assert found.times[""].share == 1 / 14
    assert [point.rate for point in found.points] == sorted(SEARCH)


def test_the_range_as_good_as_the_best():
    runs = judged("novograd", 0.9)
    (found,) = analyse(results(runs + searched("novograd", SEARCH))).summaries
    assert found.as_good == (0.003, 0.03)  # 0.3 is as good, but 0.1 in between is not
    assert not found.open_ended
    assert good_rates(found) == "0.003-0.03 (10x)"
    few = {rate: SEARCH[rate] for rate in (0.003, 0.01)}
    (found,) = analyse(results(runs + searched("novograd", few))).summaries
    assert found.as_good == (0.003, 0.01)
    assert found.open_ended
    assert good_rates(found) == "0.003-0.01 (>=3.33x)"
    (found,) = analyse(results(runs)).summaries
    assert found.as_good is None
    assert good_rates(found) == "-"
    task = results(runs)["task"] | {"margin": None}
    (found,) = analyse(results(runs + searched("novograd", SEARCH), task=task)).summaries
    assert found.as_good is None


def test_a_rate_at_which_a_seed_diverged_is_not_as_good():
    ended = row("novograd", 0.03, 1, 0.9) | {"status": "diverged", "diverged_at": 3}
    runs = [*searched("novograd", {0.01: 0.9, 0.03: 0.9}), ended, *judged("novograd", 0.9)]
    (found,) = analyse(results(runs)).summaries
    assert found.as_good == (0.01, 0.01)
    assert good_rates(found) == "0.01 or wider"
    assert "Diverged: NovoGrad, learning rate 0.03, seed 1." in remarks(analyse(results(runs)))


def test_the_default_rate_is_that_of_the_framework():
    runs = judged("novograd", 0.5, 0.6)
    (found,) = analyse(results(runs)).summaries
    assert found.default == 0.01
    settings = results(runs)["settings"] | {"framework": "jax"}
    (found,) = analyse(results(runs, settings=settings)).summaries
    assert found.default is None  # optax has none


def test_the_target_is_the_worst_of_the_medians():
    runs = [*judged("novograd", 0.5, 0.5, 0.5), *judged("adam", 0.8, 0.99, 1.0)]
    assert analyse(results(runs)).target == 0.5
    last, first = analyse(results(runs)).summaries
    assert last.steps_to_target == 4
    assert first.steps_to_target == 4  # scores at step 2: 0.4, 0.495, 0.5; median step: 4
    (alone,) = analyse(results(judged("novograd", 0.5, 0.4, 0.6))).summaries
    assert alone.steps_to_target is None  # one seed never reached its median


def test_differences_are_taken_seed_by_seed():
    hard = (0.5, 0.9, 0.1)
    runs = judged(
        "novograd", *(score + 0.1 + e for score, e in zip(hard, (0, 2e-3, 1e-3), strict=True))
    )
    runs += judged("adam", *hard)
    (pair,) = analyse(results(runs)).pairs
    assert (pair.better.name, pair.outcome) == ("novograd", "ahead")
    assert pair.gain.mean == pytest.approx(0.101)
    assert pair.gain.high - pair.gain.low < 0.01  # the hardness of the seeds is not in it


def test_lower_is_better_if_the_task_says_this():
    runs = [*judged("novograd", 0.5, 0.61, 0.7), *judged("adam", 0.7, 0.8, 0.9)]
    task = results(runs)["task"] | {"higher_is_better": False}
    (pair,) = analyse(results(runs, task=task)).pairs
    assert (pair.better.name, pair.outcome) == ("novograd", "ahead")
    assert pair.gain.mean == pytest.approx(0.59 / 3)


def test_the_better_of_a_pair_has_the_better_mean():
    runs = [*judged("novograd", 0.1, 0.8, 0.9), *judged("adam", 0.7, 0.7, 0.7)]
    (pair,) = analyse(results(runs)).pairs
    assert pair.better.name == "adam"
    assert pair.gain.mean > 0


def test_more_optimizers_need_clearer_differences():
    def runs(name, shift):
        return judged(name, *(shift + noise for noise in (0.02, -0.02, 0.01, 0.0)))

    two = judged("novograd", 0.5, 0.5, 0.5, 0.5) + runs("adam", 0.53)
    assert [pair.outcome for pair in analyse(results(two)).pairs] == ["ahead"]
    more = [*two, *runs("sgd", 0.53), *runs("adamw", 0.531), *runs("nadamw", 0.532)]
    assert analyse(results(more)).pair("novograd", "adam").outcome == "no difference shown"


def test_optimizers_whose_runs_ended_early_or_that_have_one_seed_are_not_compared():
    ended = row("adam", 0.01, 4, 0.9) | {"status": "diverged", "diverged_at": 3}
    runs = [*judged("novograd", 0.7, 0.8), *judged("adam", 0.9), ended]
    analysis = analyse(results(runs))
    assert [pair.outcome for pair in analysis.pairs] == ["not compared"]
    assert verdict(analysis) == ["Some pairs are not compared: not all runs of Adam finished."]
    analysis = analyse(results([*judged("novograd", 0.7), *judged("adam", 0.9)]))
    assert verdict(analysis) == ["Some pairs are not compared: at least two seeds are needed."]


def test_the_verdict_has_at_most_three_sentences():
    runs = [*judged("novograd", 0.1, 0.1, 0.11), *judged("adam", 0.5, 0.5, 0.51)]
    assert verdict(analyse(results(runs))) == ["Adam is ahead of NovoGrad."]
    runs += [*judged("adamw", 0.5, 0.49, 0.52), *judged("sgd", 0.3)]
    assert verdict(analyse(results(runs))) == [
        "Adam is ahead of NovoGrad; AdamW is ahead of NovoGrad.",
        "No difference is shown for the other 1 of 6 pairs.",
        "Some pairs are not compared: at least two seeds are needed.",
    ]
    runs = [*judged("adam", 0.5, 0.6), *judged("adamw", 0.6, 0.5)]
    assert verdict(analyse(results(runs))) == ["No difference is shown for any pair."]


def test_what_limits_the_conclusions_is_said():
    failed = {**row("adam", 0.1, 2, 0.5), "status": "failed", "error": "KeyError: [red]"}
    runs = [*searched("novograd", {0.003: 0.8, 0.01: 0.9}), *judged("novograd", 0.9), failed]
    given = results(runs, status="interrupted", planned=9)
    given["task"]["validated"] = False
    said = cautions(analyse(given))
    assert said[0] == "Interrupted: 4 of 9 runs ended."
    assert "at an end of the search for NovoGrad; " in said[1]
    assert "no validation data" in said[2]
    assert "Adam, learning rate 0.1, seed 2: failed: KeyError: [red]." in remarks(analyse(given))


def test_results_without_a_judged_run_have_no_summary():
    analysis = analyse(results(searched("novograd", {0.1: 0.5})))
    assert analysis.summaries == analysis.pairs == ()
    assert analysis.target is None
    assert verdict(analysis) == []


def printed(table, capsys):
    Console(width=80, markup=False).print(tables.terminal(table))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


FIVE = ("novograd", "novograd:rows", "adamw", "nadamw", "sgd")


@pytest.mark.parametrize(
    "table",
    [tables.quality, tables.cost, tables.matrix, lambda a: tables.differences(a, "novograd:rows")],
)
def test_tables_fit_eighty_columns(table, capsys):
    runs = [
        run | {"state_bytes": 123_456_789}
        for i, name in enumerate(FIVE)
        for run in [
            *judged(name, 0.712345 + i, 0.74 + i, 0.78, 0.7),
            *searched(name, {0.001: 0.61, 0.01: 0.65}),
        ]
    ]
    lines = printed(table(analyse(results(runs))), capsys)
    assert all("…" not in line for line in lines)
    assert len(lines) <= 10  # no cell is broken
    assert any("NAdamW" in line for line in lines)


def test_the_tables_contain_the_numbers(capsys):
    runs = [*judged("novograd", 0.70, 0.74, 0.78), *judged("adam", 0.50, 0.55, 0.58)]
    runs += searched("novograd", {0.01: 0.9, 0.1: 0.9})
    analysis = analyse(results(runs))
    lines = printed(tables.quality(analysis), capsys)
    assert "NovoGrad 0.01 0.740 (0.700-0.780) 6 3" in lines
    lines = printed(tables.cost(analysis), capsys)
    assert "NovoGrad 0.01-0.1 (>=10x) 4 1,234 14 1 7%" in lines
    lines = printed(tables.matrix(analysis), capsys)
    assert "NovoGrad . +0.197*" in lines
    assert "Adam -0.197* ." in lines
    lines = printed(tables.differences(analysis), capsys)
    assert "NovoGrad Adam +0.197 +0.182 to +0.211 +3.9 ahead" in lines
    lines = printed(tables.differences(analysis, "adam"), capsys)
    assert "NovoGrad -0.197 -0.211 to -0.182 -3.9 behind" in lines
    lines = printed(tables.settings(analysis), capsys)
    assert "NovoGrad beta1=0.9 0.01, 0.1 0.01" in lines


def test_a_task_without_a_margin_has_no_column_that_needs_one(capsys):
    runs = [*judged("novograd", 0.70, 0.74, 0.78), *judged("adam", 0.50, 0.55, 0.58)]
    analysis = analyse(results(runs, task=results(runs)["task"] | {"margin": None}))
    assert "Adam +0.197 +0.182 to +0.211 ahead" in printed(
        tables.differences(analysis, "novograd"), capsys
    )
    assert "NovoGrad 4 1,234 14 1 7%" in printed(tables.cost(analysis), capsys)
