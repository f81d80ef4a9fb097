"""The runs of a comparison: a search for each optimizer's learning rate, then more seeds.

1. One seed at every learning rate of the grid. While the best rate of an optimizer is at an end of
   its grid, its search goes on beyond this end, for at most ``MOST_BEYOND`` rates.
2. The other seeds at the best of these rates, at its neighbours in the grid, and at the default
   rate of the optimizer's class (with ``quick``, only at the best rate).

The same rules hold for every optimizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from novograd.compare.devices import CPU
from novograd.compare.optimizers import OPTIMIZERS, grid

POINTS, QUICK_POINTS = 7, 3  # learning rates of the search
MOST_BEYOND = 4  # more learning rates of an optimizer, if its best one is at an end


@dataclass(frozen=True)
class Settings:
    """The settings of a comparison.

    Attributes:
        task: The name of the task on the command line.
        framework: One of ``novograd.compare.runner.FRAMEWORKS``.
        learning_rates: The grid of each optimizer, in ascending order.
        seeds: Number of runs at the best rates; the seeds are 0, 1, and so on.
        steps: Number of training steps of a run.
        schedule: One of ``novograd.compare.training.SCHEDULES``.
        quick: Whether only the best rate gets the other seeds.
        device: The device that trains, see ``novograd.compare.devices``.
        extended: The optimizers whose search may go on beyond the ends of their grids.
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


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        task: The name of the task on the command line.
        framework: The module of ``novograd.compare`` that trains.
        optimizer: One of ``novograd.compare.optimizers.OPTIMIZERS``.
        learning_rate: The highest learning rate of the schedule.
        seed: Seed of everything random in the run.
        steps: Number of training steps.
        schedule: Name of the schedule of the learning rate.
        device: The device that trains.
    """

    task: str
    framework: str
    optimizer: str
    learning_rate: float
    seed: int
    steps: int
    schedule: str
    device: str = CPU


def learning_rates(
    optimizer: str, framework: str, middle: float | None = None, quick: bool = False
) -> list[float]:
    """Returns the grid of an optimizer's search.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        framework: The grid contains the default learning rate of this framework, unless ``quick``.
        middle: The middle of the grid; None for the optimizer's usual middle.
        quick: Whether the grid has only three rates.

    Example:
        >>> learning_rates("adamw", "torch", quick=True)
        [0.001, 0.003, 0.01]
    """
    chosen = OPTIMIZERS[optimizer]
    rates = grid(middle or chosen.middle, QUICK_POINTS if quick else POINTS)
    default = chosen.defaults.get(framework)
    if default is not None and not quick:
        rates = sorted({*rates, default})
    return rates


def search(settings: Settings) -> list[Run]:
    """Lists the runs of the search, starting in the middle of each grid."""
    grids = settings.learning_rates
    longest = max(map(len, grids.values()))
    inside_out = sorted(range(longest), key=lambda i: abs(i - longest // 2))
    return [
        _run(settings, name, rates[i], 0)
        for i in inside_out
        for name, rates in grids.items()
        if i < len(rates)
    ]


def beyond(
    settings: Settings, searched: Sequence[Mapping[str, Any]], higher_is_better: bool
) -> list[Run]:
    """Lists a run beyond the grid for each optimizer whose best rate is at an end.

    Args:
        settings: The settings of the comparison.
        searched: The results of the search until now, see ``novograd.compare.runner``.
        higher_is_better: Whether a higher metric is better.
    """
    runs = []
    for name in settings.extended:
        tried, best = _tried(name, searched), _best_rate(name, searched, higher_is_better)
        if best is None or len(tried) - len(settings.learning_rates[name]) >= MOST_BEYOND:
            continue
        below, _, above = grid(best, 3)
        if best == tried[-1]:
            runs.append(_run(settings, name, above, 0))
        elif best == tried[0]:
            runs.append(_run(settings, name, below, 0))
    return runs


def repeats(
    settings: Settings, searched: Sequence[Mapping[str, Any]], higher_is_better: bool
) -> list[Run]:
    """Lists the runs with the other seeds.

    The runs are ordered by seed, so that the results stay fair if the comparison is interrupted.

    Args:
        settings: The settings of the comparison.
        searched: The results of the search, see ``novograd.compare.runner``.
        higher_is_better: Whether a higher metric is better.
    """
    rates = {
        name: _rates_to_repeat(name, settings, searched, higher_is_better)
        for name in settings.learning_rates
    }
    return [
        _run(settings, name, rate, seed)
        for seed in range(1, settings.seeds)
        for name, chosen in rates.items()
        for rate in chosen
    ]


def _rates_to_repeat(
    name: str, settings: Settings, searched: Sequence[Mapping[str, Any]], higher_is_better: bool
) -> list[float]:
    """Returns the best learning rate of an optimizer, its neighbours, and the default."""
    best = _best_rate(name, searched, higher_is_better)
    if best is None:
        return []
    if settings.quick:
        return [best]
    rates = _tried(name, searched)
    place = rates.index(best)
    default = OPTIMIZERS[name].defaults.get(settings.framework)
    near = rates[max(0, place - 1) : place + 2]
    return [rate for rate in rates if rate in near or rate == default]


def _tried(name: str, searched: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the learning rates that an optimizer has tried, in ascending order."""
    return sorted(row["learning_rate"] for row in searched if row["optimizer"] == name)


def _best_rate(
    name: str, searched: Sequence[Mapping[str, Any]], higher_is_better: bool
) -> float | None:
    """Returns the learning rate with the best result; None if no run finished."""
    finished = {
        row["learning_rate"]: first_metric(row)
        for row in searched
        if (row["optimizer"], row["status"]) == (name, "finished")
    }
    best = max if higher_is_better else min
    return best(finished, key=lambda rate: finished[rate], default=None)


def first_metric(row: Mapping[str, Any]) -> float:
    """Returns the metric that optimizers are compared by."""
    return next(iter(row["metrics"].values()))


def _run(settings: Settings, optimizer: str, rate: float, seed: int) -> Run:
    common = {"task", "framework", "steps", "schedule", "device"}
    given = {name: value for name, value in asdict(settings).items() if name in common}
    return Run(optimizer=optimizer, learning_rate=rate, seed=seed, **given)
