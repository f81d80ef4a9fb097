"""What all frameworks share: measuring in turn, the bound, the figures."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from novograd import native

Figures = dict[str, dict[str, Any]]
BOUND, BOUND_BYTES = "the bound", 24


class Step(NamedTuple):
    """What to measure.

    Attributes:
        run: Called with the number of the round, and timed.
        prepare: Called with it before, and not timed.
    """

    run: Callable[[int], Any]
    prepare: Callable[[int], Any] = lambda _: None


def bound(
    arrays: Sequence[Any],
    address: Callable[[Any], int],
    size: int,
    threads: int,
    prepare: Callable[[int], Any] = lambda _: None,
) -> dict[str, Step]:
    """Makes the plainest loop that moves what a step of NovoGrad has to: 24 bytes a weight.

    Args:
        arrays: Three flat ones of the framework, float32, to have its kind of memory.
        address: Gives where the elements of one are.
        size: How many elements each has.
        threads: How many move a part each.
        prepare: Called before it as before the other steps.

    Returns:
        The step, by its name; nothing where the native kernels are not installed.
    """
    if native.PROBLEM:
        return {}

    def run(_: int) -> None:
        weights, gradient, moment = map(address, arrays)
        native.kernels.traffic(
            weights=weights, gradient=gradient, moment=moment, size=size, threads=threads
        )

    return {BOUND: Step(run, prepare)}


def measure(
    steps: Sequence[Step], rounds: int, warm_up: int, watch: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Takes all steps in turn, so that a change of the machine's speed meets them alike.

    Args:
        steps: What to measure.
        rounds: Rounds to keep.
        warm_up: Rounds before them.
        watch: Called after each round, which takes no part in the times.

    Returns:
        Seconds, of shape (rounds, steps).

    Example:
        >>> measure([Step(lambda turn: None)] * 3, rounds=5, warm_up=1).shape
        (5, 3)
    """
    seconds = np.empty((warm_up + rounds, len(steps)))
    for turn in range(len(seconds)):
        for i, step in enumerate(steps):
            step.prepare(turn)
            start = time.perf_counter()
            step.run(turn)
            seconds[turn, i] = time.perf_counter() - start
        watch()
    return seconds[warm_up:]


def summary(seconds: np.ndarray, names: Iterable[str], ratios: Mapping[str, str]) -> Figures:
    """Returns the figures of each candidate.

    Args:
        seconds: From ``measure``.
        names: The candidates, in the order of ``seconds``.
        ratios: For each name of a ratio the candidate to which it is, round by round; one that
            was not measured gives no ratio.

    Example:
        >>> seconds = np.array([[1e-3, 2e-3], [2e-3, 4e-3], [3e-3, 6e-3]])
        >>> figures = summary(seconds, ["sgd", "adam"], {"ratio_to_sgd": "sgd"})
        >>> figures["adam"]["ms_median"], figures["adam"]["ratio_to_sgd"]
        (4.0, 2.0)
    """
    columns = dict(zip(names, seconds.T, strict=True))
    figures: Figures = {}
    for name, column in columns.items():
        low, median, high, most = np.percentile(1e3 * column, (25, 50, 75, 90)).round(3).tolist()
        figures[name] = {"ms_median": median, "ms_quartiles": [low, high], "ms_90th": most}
        for ratio, base in ratios.items():
            if base not in columns:
                continue
            figures[name][ratio] = round(float(np.median(column / columns[base])), 3)
    return figures
