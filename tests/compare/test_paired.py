"""Tests of the statistics of a comparison."""

import itertools

import numpy as np
import pytest
from scipy import stats

from novograd.compare.analysis import analyse
from novograd.compare.paired import difference, holm
from tests.compare.made import judged, results

NAMES = ("novograd", "novograd:rows", "adamw", "nadamw", "sgd")


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_differences_agree_with_scipy(count):
    pairs = np.random.default_rng(count).normal((0.3, 0), 1, (count, 2))
    found = difference([tuple(pair) for pair in pairs])
    expected = stats.ttest_rel(*pairs.T)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(float(np.subtract(*pairs.T).mean()))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_equal_differences_count_only_if_they_are_not_negligible():
    equal = [(0.9, 0.8), (0.7, 0.6), (0.5, 0.4)]
    assert difference(equal, negligible=0.05).p == 0
    assert difference(equal, negligible=0.2).p == 1
    assert difference([(0.5, 0.5)] * 3).p == 1


def test_holm_by_hand():
    # Smallest first: 4 * 0.005, then 3 * 0.01, then 2 * 0.03, then 1 * 0.04, never falling.
    assert holm([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def falsely_ahead(seeds, reports, decimals, margin):
    """Counts reports on equal optimizers in which any optimizer is said to be ahead."""
    random = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(reports):
        shared = random.normal(0, 1, seeds)  # easy and hard seeds are the same for all
        runs = []
        for name in NAMES:
            scores = np.round(0.9 + 0.01 * (shared + random.normal(0, 1, seeds)), decimals)
            runs += judged(name, *map(float, scores))
        task = results(runs)["task"] | {"margin": margin}
        pairs = analyse(results(runs, task=task)).pairs
        assert len(pairs) == len(list(itertools.combinations(NAMES, 2)))
        wrong += any(pair.outcome == "ahead" for pair in pairs)
    return wrong


@pytest.mark.parametrize("decimals", [9, 2])  # 2: like an accuracy on 100 examples
@pytest.mark.parametrize("seeds", [3, 5])
def test_reports_on_equal_optimizers_are_rarely_wrong(seeds, decimals):
    reports = 400
    # If 5 % of the reports are wrong on average, more than `most` are wrong in 1 of 1,000 tests.
    most = stats.binom.ppf(0.999, reports, 0.05)
    assert falsely_ahead(seeds, reports, decimals, margin=0.02) <= most


def test_a_large_difference_is_shown():
    random = np.random.default_rng(0)
    runs = []
    for i, name in enumerate(NAMES):
        runs += judged(name, *map(float, 0.1 * i + 0.01 * random.normal(0, 1, 5)))
    outcomes = {pair.outcome for pair in analyse(results(runs)).pairs}
    assert outcomes == {"ahead"}
