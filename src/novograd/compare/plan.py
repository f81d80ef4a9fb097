"""The runs of a comparison. The same rules hold for every optimizer.

1. Search: one seed at every learning rate of the grid. While the best rate of an optimizer is at an
   end, its search goes on beyond this end, for at most ``MOST_BEYOND`` rates.
2. Choice: two more seeds at the two best rates. The rate with the best median is chosen. With
   ``quick`` there is no choice, and the best rate of the search is chosen.
3. Judgement: other seeds at the chosen rate.

The first two stages use the validation part of the data, and the third uses the test part. If only
one learning rate is given for an optimizer, only the third stage has runs.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from novograd.compare.devices import CPU
from novograd.compare.optimizers import find, grid

POINTS, QUICK_POINTS = 7, 3  # learning rates of the search
MOST_BEYOND = 4  # more learning rates of an optimizer, if its best one is at an end
SEARCH_SEED, CHOICE_SEEDS, FIRST_JUDGE = 0, (1, 2), 3
CANDIDATES = 2  # learning rates to choose from after the search

Part = Literal["validation", "test"]
Row = Mapping[str, Any]  # the result of a run, see novograd.compare.runner


@dataclass(frozen=True)
class Settings:
    """The settings of a comparison.

    Attributes:
        task: The name of the task on the command line.
        framework: One of ``novograd.compare.runner.FRAMEWORKS``.
        learning_rates: The grid of each optimizer, in ascending order.
        seeds: Number of runs of the judgement; the seeds are 3, 4, and so on.
        steps: Number of training steps of a run.
        schedule: One of ``novograd.compare.training.SCHEDULES``.
        quick: Whether the best rate of the search is chosen without more runs.
        device: The device that trains, see ``novograd.compare.devices``.
        extended: The optimizers whose search may go on beyond the ends of their grids.
        arguments: By optimizer, the arguments of its class that were given.
    """

    task: str
    framework: str
    learning_rates: Mapping[str, Sequence[float]]
    seeds: int
    steps: int
    schedule: str
    quick: bool
    device: str = CPU
    extended: Sequence[str] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        task: The name of the task on the command line.
        framework: The module of ``novograd.compare`` that trains.
        optimizer: Its name on the command line.
        learning_rate: The highest learning rate of the schedule.
        seed: Seed of everything random in the run.
        part: The part of the data that the run is evaluated on.
        steps: Number of training steps.
        schedule: Name of the schedule of the learning rate.
        device: The device that trains.
    """

    task: str
    framework: str
    optimizer: str
    learning_rate: float
    seed: int
    part: Part
    steps: int
    schedule: str
    device: str = CPU


def key(row: Row) -> tuple[str, float, int]:
    """Returns the fields that distinguish the runs of one comparison."""
    return row["optimizer"], row["learning_rate"], row["seed"]


def learning_rates(
    optimizer: str, framework: str, middle: float | None = None, quick: bool = False
) -> list[float]:
    """Returns the grid of an optimizer's search.

    Args:
        optimizer: Its name on the command line.
        framework: The grid contains the default learning rate of this framework, unless ``quick``.
        middle: The middle of the grid; None for the optimizer's usual middle.
        quick: Whether the grid has only three rates.

    Example:
        >>> learning_rates("adamw", "torch", quick=True)
        [0.001, 0.003, 0.01]
    """
    chosen = find(optimizer)
    rates = grid(middle or chosen.middle, QUICK_POINTS if quick else POINTS)
    default = chosen.defaults.get(framework)
    if default is not None and not quick:
        rates = sorted({*rates, default})
    return rates


def planned(settings: Settings, ended: Sequence[Row], higher_is_better: bool) -> list[Run]:
    """Lists the runs that are known to be needed: those that ended, and those that come next.

    Args:
        settings: The settings of the comparison.
        ended: The runs that ended.
        higher_is_better: Whether a higher metric is better.

    Returns:
        The runs in the order of the plan. The plan is complete if all of them have ended.
    """
    rows = {key(row): row for row in ended}
    runs = search(settings)
    for stage in (*[beyond] * MOST_BEYOND, choice, judgement):
        results = [rows[place] for run in runs if (place := key(asdict(run))) in rows]
        if len(results) < len(runs):
            break
        runs += stage(settings, results, higher_is_better)
    return runs


def search(settings: Settings) -> list[Run]:
    """Lists the runs of the search in the grids, starting in the middle of each grid."""
    grids = {name: rates for name, rates in settings.learning_rates.items() if len(rates) > 1}
    longest = max(map(len, grids.values()), default=0)
    inside_out = sorted(range(longest), key=lambda i: abs(i - longest // 2))
    return [
        _run(settings, name, rates[i], SEARCH_SEED)
        for i in inside_out
        for name, rates in grids.items()
        if i < len(rates)
    ]


def beyond(settings: Settings, searched: Sequence[Row], higher_is_better: bool) -> list[Run]:
    """Lists a run beyond the grid for each optimizer whose best rate is at an end.

    Args:
        settings: The settings of the comparison.
        searched: The results of the search until now.
        higher_is_better: Whether a higher metric is better.
    """
    runs = []
    for name in settings.extended:
        tried = sorted({row["learning_rate"] for row in searched if row["optimizer"] == name})
        best = _best_rates(name, searched, higher_is_better)[:1]
        if not best or len(tried) - len(settings.learning_rates[name]) >= MOST_BEYOND:
            continue
        below, _, above = grid(best[0], 3)
        if best[0] == tried[-1]:
            runs.append(_run(settings, name, above, SEARCH_SEED))
        elif best[0] == tried[0]:
            runs.append(_run(settings, name, below, SEARCH_SEED))
    return runs


def choice(settings: Settings, searched: Sequence[Row], higher_is_better: bool) -> list[Run]:
    """Lists the runs that help to choose between the best learning rates of the search.

    Args:
        settings: The settings of the comparison.
        searched: The results of the search.
        higher_is_better: Whether a higher metric is better.
    """
    if settings.quick:
        return []
    best = {
        name: _best_rates(name, searched, higher_is_better)[:CANDIDATES]
        for name in settings.learning_rates
    }
    return [
        _run(settings, name, rate, seed)
        for seed in CHOICE_SEEDS
        for name, rates in best.items()
        if len(rates) > 1
        for rate in rates
    ]


def judgement(settings: Settings, results: Sequence[Row], higher_is_better: bool) -> list[Run]:
    """Lists the runs at the chosen learning rates, whose results are compared.

    The runs are ordered by seed, so that the results stay fair if the comparison is interrupted.

    Args:
        settings: The settings of the comparison.
        results: The results of the search and the choice.
        higher_is_better: Whether a higher metric is better.
    """
    rates = {
        name: given[0] if len(given) == 1 else chosen_rate(name, results, higher_is_better)
        for name, given in settings.learning_rates.items()
    }
    return [
        _run(settings, name, rate, seed)
        for seed in range(FIRST_JUDGE, FIRST_JUDGE + settings.seeds)
        for name, rate in rates.items()
        if rate is not None
    ]


def chosen_rate(name: str, results: Sequence[Row], higher_is_better: bool) -> float | None:
    """Returns the learning rate with the best median, among the rates with the most finished runs.

    Args:
        name: The optimizer.
        results: The results of the search and the choice.
        higher_is_better: Whether a higher metric is better.

    Returns:
        The learning rate; None if no run of the optimizer finished.
    """
    sign = 1 if higher_is_better else -1
    scores: dict[float, list[float]] = {}
    for row in results:
        if (row["optimizer"], row["status"]) == (name, "finished"):
            scores.setdefault(row["learning_rate"], []).append(sign * first_metric(row))
    return max(
        scores,
        key=lambda rate: (len(scores[rate]), statistics.median(scores[rate])),
        default=None,
    )


def first_metric(row: Row) -> float:
    """Returns the metric that optimizers are compared by."""
    return next(iter(row["metrics"].values()))


def _best_rates(name: str, searched: Sequence[Row], higher_is_better: bool) -> list[float]:
    """Returns the learning rates of an optimizer at which the search finished, the best first."""
    finished = [row for row in searched if (row["optimizer"], row["status"]) == (name, "finished")]
    ordered = sorted(finished, key=first_metric, reverse=higher_is_better)
    return [row["learning_rate"] for row in ordered]


def _run(settings: Settings, optimizer: str, rate: float, seed: int) -> Run:
    common = ("task", "framework", "steps", "schedule", "device")
    given = {name: getattr(settings, name) for name in common}
    part: Part = "test" if seed >= FIRST_JUDGE else "validation"
    return Run(optimizer=optimizer, learning_rate=rate, seed=seed, part=part, **given)
