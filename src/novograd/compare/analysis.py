"""The results of a comparison as numbers, computed once by a pure function."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.plan import first_metric

Row = Mapping[str, Any]  # all results, or one run
Better = Callable[..., Any]  # max or min


@dataclass(frozen=True)
class Point:
    """The runs of one optimizer at one learning rate.

    Attributes:
        rate: The learning rate.
        finished: The runs that finished, ordered by seed.
        ended: Number of all runs that ended, including those that diverged or failed.
    """

    rate: float
    finished: tuple[Row, ...]
    ended: int

    @property
    def scores(self) -> tuple[float, ...]:
        """The first metric of each finished run."""
        return tuple(map(first_metric, self.finished))

    @property
    def median(self) -> float:
        """The median of the scores."""
        return statistics.median(self.scores)

    @property
    def worst_to_best(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return min(self.scores), max(self.scores)


@dataclass(frozen=True)
class Summary:
    """The results of one optimizer.

    Attributes:
        name: Its name on the command line.
        title: Its name in tables.
        points: A point for each learning rate, ascending. A point without a finished run has no
            scores.
        best: The point with the best median, among the points with the most finished runs.
        default: The point at the default learning rate of the optimizer's class; None if the class
            has no default or no run finished there.
        as_good: The lowest and the highest learning rate of the range around the best rate in which
            each median is at most ``margin`` worse than the best.
        open_ended: Whether the range ``as_good`` reaches an end of the search.
        metrics: Median of every metric over the runs at the best rate.
        steps_to_target: Median, over the runs at the best rate, of the first evaluated step that
            reached the target; None if a run did not reach it.
        state_bytes: Size of the optimizer's state.
        step_ms: Median time of a training step.
        update_ms: Median time of the optimizer's update.
        settings: The arguments of the optimizer.
    """

    name: str
    title: str
    points: tuple[Point, ...]
    best: Point
    default: Point | None
    as_good: tuple[float, float]
    open_ended: bool
    metrics: Mapping[str, float]
    steps_to_target: float | None
    state_bytes: int
    step_ms: float
    update_ms: float
    settings: Mapping[str, Any]

    @property
    def is_novograd(self) -> bool:
        """Whether the algorithm is NovoGrad."""
        return _algorithm(self.name) == "novograd"

    @property
    def share(self) -> float:
        """The share of a training step that the update takes, from 0 to 1."""
        return self.update_ms / self.step_ms


@dataclass(frozen=True)
class Pair:
    """Two optimizers, each at its best learning rate.

    Attributes:
        better: The optimizer with the better median.
        worse: The other optimizer.
    """

    better: Summary
    worse: Summary

    @property
    def outcome(self) -> Literal["ahead", "tie", "not ranked"]:
        """The outcome: ``"tie"`` if the ranges of the scores over the seeds overlap."""
        one, other = self.better.best, self.worse.best
        if min(len(one.scores), len(other.scores)) < 2:
            return "not ranked"
        return "tie" if overlap(one.worst_to_best, other.worst_to_best) else "ahead"


@dataclass(frozen=True)
class Analysis:
    """The conclusions from the results of a comparison.

    Attributes:
        results: The results, see ``docs/compare.md``.
        metric: The name of the metric that optimizers are compared by.
        target: The score that ``steps_to_target`` counts to: the worst of the optimizers' medians
            at their best learning rates. None if no run finished.
        summaries: One for each optimizer that has a finished run, in the order of the results.
        pairs: Every pair of these optimizers, the best pairs first.
    """

    results: Row
    metric: str
    target: float | None
    summaries: tuple[Summary, ...]
    pairs: tuple[Pair, ...]

    def ended(self, status: str) -> list[Row]:
        """Returns the runs with a status: ``"finished"``, ``"diverged"`` or ``"failed"``."""
        return [row for row in self.results["runs"] if row["status"] == status]


def analyse(results: Row) -> Analysis:
    """Analyses the results of a comparison.

    Args:
        results: The value that ``novograd.compare.runner.compare`` returned.

    Example:
        >>> task = {"higher_is_better": True, "margin": 0.01}
        >>> analyse({"task": task, "optimizers": {"adam": "Adam"}, "runs": []}).summaries
        ()
    """
    higher = results["task"]["higher_is_better"]
    better, worse = (max, min) if higher else (min, max)
    points = {name: _points(name, results["runs"]) for name in results["optimizers"]}
    best = {
        name: _best(tried, better)
        for name, tried in points.items()
        if any(point.finished for point in tried)
    }
    target: float | None = worse((point.median for point in best.values()), default=None)
    summaries = tuple(
        _summary(name, points[name], best[name], _steps_to(target, best[name], better), results)
        for name in best
    )
    ordered = sorted(summaries, key=lambda one: one.best.median, reverse=higher)
    finished = (row for row in results["runs"] if row["status"] == "finished")
    return Analysis(
        results=results,
        metric=next((next(iter(row["metrics"])) for row in finished), "metric"),
        target=target,
        summaries=summaries,
        pairs=tuple(itertools.starmap(Pair, itertools.combinations(ordered, 2))),
    )


def searched(results: Row) -> dict[str, list[float]]:
    """Returns the learning rates at which each optimizer ran in the search.

    Example:
        >>> runs = [{"optimizer": "adam", "learning_rate": 0.1, "seed": 0}]
        >>> searched({"optimizers": {"adam": "Adam"}, "runs": runs})
        {'adam': [0.1]}
    """
    return {
        name: [
            row["learning_rate"]
            for row in results["runs"]
            if (row["optimizer"], row["seed"]) == (name, 0)
        ]
        for name in results["optimizers"]
    }


def standing(analysis: Analysis, name: str) -> dict[str, list[str]]:
    """Compares one optimizer with the optimizers of other algorithms.

    Args:
        analysis: The analysis of the comparison.
        name: The name of the optimizer.

    Returns:
        Names of the other optimizers under ``"wins against"``, ``"ties with"`` and ``"loses to"``.
        An optimizer that is not ranked is in none of these lists.
    """
    said: dict[str, list[str]] = {"wins against": [], "ties with": [], "loses to": []}
    for pair in analysis.pairs:
        names = pair.better.name, pair.worse.name
        if (
            name not in names
            or len(set(map(_algorithm, names))) == 1
            or pair.outcome == "not ranked"
        ):
            continue
        first = name == names[0]
        won = "wins against" if first else "loses to"
        said["ties with" if pair.outcome == "tie" else won].append(names[first])
    return said


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Returns whether two ranges overlap, each given as its lowest and its highest number.

    Example:
        >>> overlap((0.7, 0.8), (0.8, 0.9)), overlap((0.7, 0.8), (0.81, 0.9))
        (True, False)
    """
    return one[0] <= other[1] and other[0] <= one[1]


def _algorithm(name: str) -> str:
    """Returns the algorithm of an optimizer; ``novograd:rows`` is a variant of ``novograd``."""
    return name.partition(":")[0]


def _points(name: str, runs: Iterable[Row]) -> tuple[Point, ...]:
    """Groups the runs of an optimizer by learning rate."""
    by_rate: dict[float, list[Row]] = {}
    for row in sorted(runs, key=lambda row: row["seed"]):
        if row["optimizer"] == name:
            by_rate.setdefault(row["learning_rate"], []).append(row)
    return tuple(
        Point(rate, tuple(row for row in rows if row["status"] == "finished"), len(rows))
        for rate, rows in sorted(by_rate.items())
    )


def _best(points: Sequence[Point], better: Better) -> Point:
    """Returns the best of the points with the most finished runs; the other points are worse."""
    most = max(len(point.finished) for point in points)
    often = [point for point in points if len(point.finished) == most]
    return better(often, key=lambda point: point.median)


def _summary(
    name: str, points: tuple[Point, ...], best: Point, soon: float | None, results: Row
) -> Summary:
    runs = best.finished
    # The file may be older than the list of optimizers.
    defaults = OPTIMIZERS[name].defaults if name in OPTIMIZERS else {}
    default = defaults.get(results["settings"]["framework"])
    as_good = _as_good(points, best, results["task"])
    return Summary(
        name=name,
        title=results["optimizers"][name],
        points=points,
        best=best,
        default=next((one for one in points if one.rate == default and one.finished), None),
        as_good=(as_good[0].rate, as_good[-1].rate),
        open_ended=as_good[0] is points[0] or as_good[-1] is points[-1],
        metrics={
            key: statistics.median(row["metrics"][key] for row in runs)
            for key in runs[0]["metrics"]
        },
        steps_to_target=soon,
        state_bytes=max(row["state_bytes"] for row in runs),
        step_ms=statistics.median(row["step_ms"] for row in runs),
        update_ms=statistics.median(row["update_ms"] for row in runs),
        settings=runs[0]["settings"],
    )


def _as_good(points: Sequence[Point], best: Point, task: Row) -> list[Point]:
    """Returns the best point and its neighbours that are hardly worse."""

    def hardly_worse(point: Point) -> bool:
        if len(point.finished) < point.ended:
            return False
        worse = best.median - point.median
        return (worse if task["higher_is_better"] else -worse) <= task["margin"]

    place = points.index(best)
    below = itertools.takewhile(hardly_worse, reversed(points[:place]))
    above = itertools.takewhile(hardly_worse, points[place + 1 :])
    return [*reversed(list(below)), best, *above]


def _steps_to(target: float | None, best: Point, better: Better) -> float | None:
    """Returns the median step at which the runs reached the target; None if a run did not."""

    def reached(evaluation: Row) -> bool:
        score = first_metric(evaluation)
        return better(score, target) == score

    soon = [
        next((found["step"] for found in row["evaluations"] if reached(found)), None)
        for row in best.finished
    ]
    return None if None in soon else statistics.median(filter(None, soon))
