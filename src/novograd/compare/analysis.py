"""The results of a comparison as numbers, computed once by a pure function."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from novograd.compare.optimizers import find
from novograd.compare.paired import CONFIDENCE, Difference, difference, holm
from novograd.compare.plan import Row, first_metric

Better = Callable[..., Any]  # max or min


@dataclass(frozen=True)
class Point:
    """The runs of one optimizer at one learning rate, evaluated on one part of the data.

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
    def lowest_to_highest(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return min(self.scores), max(self.scores)


@dataclass(frozen=True)
class Times:
    """The times of an optimizer on one kind of machine.

    Attributes:
        runs: Number of judged runs there that finished.
        step_ms: Median time of a training step.
        update_ms: Median time of the optimizer's update.
    """

    runs: int
    step_ms: float
    update_ms: float

    @property
    def share(self) -> float:
        """The share of a training step that the update takes, from 0 to 1."""
        return self.update_ms / self.step_ms


@dataclass(frozen=True)
class Summary:
    """The results of one optimizer.

    Attributes:
        name: Its name on the command line.
        title: Its name in tables.
        points: The runs of the search and the choice, on validation data: a point for each learning
            rate, ascending. A point without a finished run has no scores. Empty if only one
            learning rate was given.
        judged: The runs at the chosen learning rate, on test data; at least one finished.
        as_good: The lowest and the highest learning rate of the range around the chosen rate in
            which each validation median is at most ``margin`` worse than that of the chosen rate;
            None without a margin or a search.
        open_ended: Whether the range ``as_good`` reaches an end of the search.
        metrics: Median of every metric over the judged runs.
        steps_to_target: Median, over the judged runs, of the first evaluated step that reached the
            target; None if a run did not reach it.
        state_bytes: Size of the optimizer's state.
        times: The times of the judged runs by kind of machine, which only a cluster names.
        settings: The arguments of the optimizer.
        default: The default learning rate of the optimizer's class, if it has one.
    """

    name: str
    title: str
    points: tuple[Point, ...]
    judged: Point
    as_good: tuple[float, float] | None
    open_ended: bool
    metrics: Mapping[str, float]
    steps_to_target: float | None
    state_bytes: int
    times: Mapping[str, Times]
    settings: Mapping[str, Any]
    default: float | None

    @property
    def is_novograd(self) -> bool:
        """Whether the algorithm is NovoGrad."""
        return self.name.partition(":")[0] == "novograd"


@dataclass(frozen=True)
class Pair:
    """Two optimizers, each at its chosen learning rate, compared seed by seed on test data.

    Attributes:
        better: The optimizer with the better mean over the seeds that both finished.
        worse: The other optimizer.
        gain: The difference between their scores, positive because the first one is better; None if
            they cannot be compared.
        p: The p-value of the difference, corrected for all pairs of the comparison.
        why_not: The reason why they cannot be compared; empty if they can.
    """

    better: Summary
    worse: Summary
    gain: Difference | None
    p: float = 1.0
    why_not: str = ""

    @property
    def outcome(self) -> Literal["ahead", "no difference shown", "not compared"]:
        """Whether a difference is shown: the corrected p-value is below 0.05."""
        if self.gain is None:
            return "not compared"
        return "ahead" if self.p < 1 - CONFIDENCE else "no difference shown"


@dataclass(frozen=True)
class Analysis:
    """The conclusions from the results of a comparison.

    Attributes:
        results: The results, see ``docs/compare.md``.
        metric: The name of the metric that optimizers are compared by.
        target: The score that ``steps_to_target`` counts to: the worst of the optimizers' medians.
            None if no judged run finished.
        summaries: One for each optimizer that has a judged run that finished, in the order of the
            results.
        pairs: Every pair of these optimizers, the best pairs first.
    """

    results: Row
    metric: str
    target: float | None
    summaries: tuple[Summary, ...]
    pairs: tuple[Pair, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        """The kinds of machines of the judged runs. Times are compared on one of them at a time."""
        return tuple(dict.fromkeys(kind for one in self.summaries for kind in one.times))

    def ended(self, status: str) -> list[Row]:
        """Returns the runs with a status: ``"finished"``, ``"diverged"`` or ``"failed"``."""
        return [row for row in self.results["runs"] if row["status"] == status]

    def pair(self, one: str, other: str) -> Pair:
        """Returns the pair of two optimizers, given by their names in any order."""
        return next(
            pair for pair in self.pairs if {pair.better.name, pair.worse.name} == {one, other}
        )


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
    judged = {
        name: points[0]
        for name in results["optimizers"]
        if (points := _points(name, "test", results["runs"])) and points[0].finished
    }
    target: float | None = worse((point.median for point in judged.values()), default=None)
    summaries = tuple(
        _summary(name, point, _steps_to(target, point, better), results)
        for name, point in judged.items()
    )
    ordered = sorted(summaries, key=lambda one: one.judged.median, reverse=higher)
    finished = (row for row in results["runs"] if row["status"] == "finished")
    return Analysis(
        results=results,
        metric=next((next(iter(row["metrics"])) for row in finished), "metric"),
        target=target,
        summaries=summaries,
        pairs=_corrected(
            [_pair(*both, results["task"]) for both in itertools.combinations(ordered, 2)]
        ),
    )


def _pair(one: Summary, other: Summary, task: Row) -> Pair:
    """Compares two optimizers seed by seed."""
    for summary in (one, other):
        if len(summary.judged.finished) < summary.judged.ended:
            return Pair(one, other, None, why_not=f"not all runs of {summary.title} finished")
    scores = [
        {row["seed"]: first_metric(row) for row in summary.judged.finished}
        for summary in (one, other)
    ]
    seeds = sorted(scores[0].keys() & scores[1].keys())
    if len(seeds) < 2:
        return Pair(one, other, None, why_not="at least two seeds are needed")
    sign = 1 if task["higher_is_better"] else -1
    pairs = [(sign * scores[0][seed], sign * scores[1][seed]) for seed in seeds]
    gain = difference(pairs, task["margin"] or 0.0)
    if gain.mean < 0:  # the means are in another order than the medians
        return _pair(other, one, task)
    return Pair(one, other, gain, gain.p)


def _corrected(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Corrects the p-values of the pairs that can be compared."""
    compared = [pair for pair in pairs if pair.gain is not None]
    corrected = iter(holm([pair.p for pair in compared]))
    return tuple(pair if pair.gain is None else replace(pair, p=next(corrected)) for pair in pairs)


def _points(name: str, part: str, runs: Iterable[Row]) -> tuple[Point, ...]:
    """Groups the runs of an optimizer on one part of the data by learning rate."""
    by_rate: dict[float, list[Row]] = {}
    for row in sorted(runs, key=lambda row: row["seed"]):
        if (row["optimizer"], row["part"]) == (name, part):
            by_rate.setdefault(row["learning_rate"], []).append(row)
    return tuple(
        Point(rate, tuple(row for row in rows if row["status"] == "finished"), len(rows))
        for rate, rows in sorted(by_rate.items())
    )


def _summary(name: str, judged: Point, soon: float | None, results: Row) -> Summary:
    runs = judged.finished
    points = _points(name, "validation", results["runs"])
    as_good = _as_good(points, judged.rate, results["task"])
    return Summary(
        name=name,
        title=results["optimizers"][name],
        points=points,
        judged=judged,
        as_good=(as_good[0].rate, as_good[-1].rate) if as_good else None,
        open_ended=bool(as_good) and (as_good[0] is points[0] or as_good[-1] is points[-1]),
        metrics={
            key: statistics.median(row["metrics"][key] for row in runs)
            for key in runs[0]["metrics"]
        },
        steps_to_target=soon,
        state_bytes=max(row["state_bytes"] for row in runs),
        times=_times(runs),
        settings=runs[0]["settings"],
        default=find(name).defaults.get(results["settings"]["framework"]),
    )


def _times(runs: Sequence[Row]) -> dict[str, Times]:
    by_machine: dict[str, list[Row]] = {}
    for row in runs:
        by_machine.setdefault(row.get("machine", ""), []).append(row)
    return {
        kind: Times(
            runs=len(rows),
            step_ms=statistics.median(row["step_ms"] for row in rows),
            update_ms=statistics.median(row["update_ms"] for row in rows),
        )
        for kind, rows in by_machine.items()
    }


def _as_good(points: Sequence[Point], chosen: float, task: Row) -> list[Point]:
    """Returns the point of the chosen rate and its neighbours that are hardly worse."""
    place = next((i for i, point in enumerate(points) if point.rate == chosen), None)
    if place is None or task["margin"] is None or not points[place].finished:
        return []
    best = points[place].median

    def hardly_worse(point: Point) -> bool:
        if len(point.finished) < point.ended:
            return False
        worse = best - point.median
        return (worse if task["higher_is_better"] else -worse) <= task["margin"]

    below = itertools.takewhile(hardly_worse, reversed(points[:place]))
    above = itertools.takewhile(hardly_worse, points[place + 1 :])
    return [*reversed(list(below)), points[place], *above]


def _steps_to(target: float | None, judged: Point, better: Better) -> float | None:
    """Returns the median step at which the runs reached the target; None if a run did not."""

    def reached(evaluation: Row) -> bool:
        score = first_metric(evaluation)
        return better(score, target) == score

    soon = [
        next((found["step"] for found in row["evaluations"] if reached(found)), None)
        for row in judged.finished
    ]
    return None if None in soon else statistics.median(filter(None, soon))
