"""What the results of a comparison say: pure functions from results to numbers and sentences."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.plan import first_metric

Row = Mapping[str, Any]  # a run of the results


@dataclass(frozen=True)
class Point:
    """What an optimizer reaches with a learning rate.

    Attributes:
        rate: The learning rate.
        scores: The first metric of each finished run, in the order of the seeds.
        runs: How many there were, those that diverged or failed included.
    """

    rate: float
    scores: tuple[float, ...]
    runs: int

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
    """What there is to say of an optimizer.

    Attributes:
        name: Of ``novograd.compare.optimizers.OPTIMIZERS``.
        points: What it reaches with each learning rate, ascending; rates without a finished run
            have no scores.
        best: The one of the best median, of those with the most seeds.
        default: That of the default learning rate of its class, if it has one and it was run.
        as_good: The lowest and the highest learning rate of those around the best whose median is
            at most ``margin`` worse.
        open_ended: Whether that range reaches an end of the search.
        metrics: Median of every metric over the runs at the best rate.
        steps_to_target: Median over these runs of the step at whose evaluation the target was
            reached; None if one of them did not.
        state_bytes: What the optimizer stores.
        step_ms: Median time of a training step.
        update_ms: Median time of the optimizer's part of it.
        settings: The arguments of the optimizer.
    """

    name: str
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
    def share(self) -> float:
        """The optimizer's part of a training step, from 0 to 1."""
        return self.update_ms / self.step_ms


@dataclass(frozen=True)
class Pair:
    """Two optimizers, each at its best learning rate.

    Attributes:
        better: The one of the better median.
        worse: The other.
    """

    better: Summary
    worse: Summary

    @property
    def outcome(self) -> Literal["ahead", "tie", "not ranked"]:
        """What their scores allow to say: a tie if the ranges over the seeds overlap."""
        if min(len(self.better.best.scores), len(self.worse.best.scores)) < 2:
            return "not ranked"
        return "tie" if tie(self.better.best, self.worse.best) else "ahead"


def metric_name(results: Row) -> str:
    """Returns the name of the metric that optimizers are compared by."""
    finished = (row for row in results["runs"] if row["status"] == "finished")
    row = next(finished, None)
    return next(iter(row["metrics"])) if row else "metric"


def summaries(results: Row) -> list[Summary]:
    """Sums up each optimizer that has a finished run, in the order of the results."""
    reached = target(results)
    return [
        _summary(name, results, reached) for name in results["optimizers"] if _points(name, results)
    ]


def target(results: Row) -> float | None:
    """Returns the metric that all optimizers are asked for how soon they reached it.

    It is what the last of them ends with: the worst median at its best learning rate.
    """
    ends = [
        _best(_points(name, results), results).median
        for name in results["optimizers"]
        if _points(name, results)
    ]
    return _worst(results)(ends) if ends else None


def pairs(results: Row) -> list[Pair]:
    """Compares each pair of optimizers, the best pairs first."""
    higher = results["task"]["higher_is_better"]
    ordered = sorted(summaries(results), key=lambda one: one.best.median, reverse=higher)
    return [Pair(better, worse) for better, worse in itertools.combinations(ordered, 2)]


def ranking(results: Row) -> list[str]:
    """Says of each pair of optimizers which is ahead, or that they tie.

    Returns:
        Sentences, the best pairs first.
    """
    metric = metric_name(results)
    return [sentence(pair, metric) for pair in pairs(results)]


def sentence(pair: Pair, metric: str) -> str:
    """Says which of two optimizers is ahead, or that they tie.

    Args:
        pair: The two.
        metric: What they are compared by.
    """
    better, worse = (OPTIMIZERS[one.name].title for one in (pair.better, pair.worse))
    match pair.outcome:
        case "ahead":
            ahead = abs(pair.better.best.median - pair.worse.best.median)
            return f"{better} is ahead of {worse} by {ahead:.3g} {metric}."
        case "tie":
            return f"{better} and {worse} tie: their ranges over seeds overlap."
        case "not ranked":
            return f"{better} and {worse} are not ranked: one seed has no spread."


def standing(results: Row, name: str) -> dict[str, list[str]]:
    """Says how one optimizer compares with those of other algorithms, by the rule of ``ranking``.

    Args:
        results: Of the comparison.
        name: One of its optimizers.

    Returns:
        Names of the others for ``"wins against"``, ``"ties with"`` and ``"loses to"``.
    """
    said: dict[str, list[str]] = {"wins against": [], "ties with": [], "loses to": []}
    for pair in pairs(results):
        names = pair.better.name, pair.worse.name
        kinds = {OPTIMIZERS[one].kind for one in names}
        if name not in names or len(kinds) == 1 or pair.outcome == "not ranked":
            continue
        first = name == names[0]
        won = "wins against" if first else "loses to"
        said["ties with" if pair.outcome == "tie" else won].append(names[first])
    return said


def tie(one: Point, other: Point) -> bool:
    """Says whether the ranges of two points overlap.

    Example:
        >>> tie(Point(0.1, (0.7, 0.8), 2), Point(0.1, (0.8, 0.9), 2))
        True
        >>> tie(Point(0.1, (0.7, 0.8), 2), Point(0.1, (0.81, 0.9), 2))
        False
    """
    (low, high), (other_low, other_high) = one.worst_to_best, other.worst_to_best
    return low <= other_high and other_low <= high


def remarks(results: Row) -> list[str]:
    """Says what the tables allow to conclude, and what not.

    Returns:
        Sentences to print under the tables.
    """
    said = interruption(results)
    said += [f"{label(row)}: failed: {row['error']}." for row in of_status(results, "failed")]
    diverged = [label(row) for row in of_status(results, "diverged")]
    if diverged:
        said.append(f"Diverged: {'; '.join(diverged)}.")
    said += ranking(results)
    said += search_ends(results)
    said.append(protocol(results))
    if results["task"]["about"]:
        said.append(results["task"]["about"])
    return said


def interruption(results: Row) -> list[str]:
    """Says how far a comparison came that was interrupted."""
    if results["status"] != "interrupted":
        return []
    return [f"Interrupted: {len(results['runs'])} of {results['planned']} runs ended."]


def search_ends(results: Row) -> list[str]:
    """Says which optimizers do best at an end of their search."""
    said = []
    for one in summaries(results):
        rates = [point.rate for point in one.points]
        if one.best.rate in (rates[0], rates[-1]) and len(rates) > 1:
            title = OPTIMIZERS[one.name].title
            said.append(
                f"{title}: the best learning rate is at the end of the search; it might do better "
                "beyond."
            )
    return said


def protocol(results: Row) -> str:
    """Says what each optimizer was given."""
    settings = results["settings"]
    rates = {name: len(rates) for name, rates in settings["learning_rates"].items()}
    each = (
        f"{next(iter(rates.values()))} learning rates each"
        if len(set(rates.values())) == 1
        else ", ".join(f"{OPTIMIZERS[name].title} {count}" for name, count in rates.items())
        + " learning rates"
    )
    where = "the best" if settings["quick"] else "the best, its neighbours and the default"
    return (
        f"Search: {each} with one seed, then {settings['seeds']} seeds at {where}; every run "
        f"{settings['steps']} steps, {settings['schedule']} schedule. The same test data choose "
        "the learning rate and judge it, for all alike."
    )


def label(row: Row) -> str:
    """Names a run."""
    title = OPTIMIZERS[row["optimizer"]].title
    return f"{title}, learning rate {row['learning_rate']:g}, seed {row['seed']}"


def of_status(results: Row, status: str) -> list[Row]:
    """Returns the runs that finished, diverged or failed."""
    return [row for row in results["runs"] if row["status"] == status]


def diverged_rates(results: Row) -> set[tuple[str, float]]:
    """Returns the optimizers with those of their learning rates at which a run diverged."""
    return {(row["optimizer"], row["learning_rate"]) for row in of_status(results, "diverged")}


def best_runs(name: str, results: Row) -> list[Row]:
    """Returns the finished runs of an optimizer at its best learning rate, by seed."""
    rate = _best(_points(name, results), results).rate
    return _finished(name, results, rate)


def _summary(name: str, results: Row, reached: float | None) -> Summary:
    points = _all_points(name, results)
    best = _best(_points(name, results), results)
    runs = _finished(name, results, best.rate)
    default = OPTIMIZERS[name].defaults.get(results["settings"]["framework"])
    as_good = _as_good(points, best, results)
    rates = [point.rate for point in points]
    soon = [_steps_to(row, reached, results) for row in runs]
    return Summary(
        name=name,
        points=points,
        best=best,
        default=next((p for p in points if p.rate == default and p.scores), None),
        as_good=(as_good[0].rate, as_good[-1].rate),
        open_ended=as_good[0].rate == rates[0] or as_good[-1].rate == rates[-1],
        metrics={
            key: statistics.median(row["metrics"][key] for row in runs)
            for key in runs[0]["metrics"]
        },
        steps_to_target=None if None in soon else statistics.median(filter(None, soon)),
        state_bytes=max(row["state_bytes"] for row in runs),
        step_ms=statistics.median(row["step_ms"] for row in runs),
        update_ms=statistics.median(row["update_ms"] for row in runs),
        settings=runs[0]["settings"],
    )


def _all_points(name: str, results: Row) -> tuple[Point, ...]:
    ended = [row for row in results["runs"] if row["optimizer"] == name]
    rates = sorted({row["learning_rate"] for row in ended})
    return tuple(
        Point(
            rate,
            tuple(map(first_metric, _finished(name, results, rate))),
            sum(row["learning_rate"] == rate for row in ended),
        )
        for rate in rates
    )


def _points(name: str, results: Row) -> list[Point]:
    """Returns the points that have a score."""
    return [point for point in _all_points(name, results) if point.scores]


def _best(points: Sequence[Point], results: Row) -> Point:
    """Returns the best of the points with the most runs; one that did not always end is worse."""
    most = max(len(point.scores) for point in points)
    often = [point for point in points if len(point.scores) == most]
    return _better(results)(often, key=lambda point: point.median)


def _as_good(points: Sequence[Point], best: Point, results: Row) -> list[Point]:
    """Returns the best point and those next to it that are hardly worse."""
    margin = results["task"]["margin"]

    def hardly_worse(point: Point) -> bool:
        if len(point.scores) < point.runs:
            return False
        worse = best.median - point.median
        return (worse if results["task"]["higher_is_better"] else -worse) <= margin

    place = list(points).index(best)
    below = itertools.takewhile(hardly_worse, points[place - 1 :: -1] if place else ())
    above = itertools.takewhile(hardly_worse, points[place + 1 :])
    return [*reversed(list(below)), best, *above]


def _steps_to(row: Row, reached: float | None, results: Row) -> int | None:
    for evaluation in row["evaluations"]:
        score = first_metric(evaluation)
        if reached is not None and _better(results)(score, reached) == score:
            return evaluation["step"]
    return None


def _better(results: Row) -> Callable[..., Any]:
    return max if results["task"]["higher_is_better"] else min


def _worst(results: Row) -> Callable[..., Any]:
    return min if results["task"]["higher_is_better"] else max


def _finished(name: str, results: Row, rate: float) -> list[Row]:
    found = [
        row
        for row in results["runs"]
        if (row["optimizer"], row["learning_rate"], row["status"]) == (name, rate, "finished")
    ]
    return sorted(found, key=lambda row: row["seed"])
