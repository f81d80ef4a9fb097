"""Measures steps of any framework: the lower bound, the times, the figures."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from novograd import native

Figures = dict[str, dict[str, Any]]
BOUND, BOUND_BYTES = "lower bound", 20


class TimedStep(NamedTuple):
    """A step to measure.

    Attributes:
        run: Called with the number of the round, and timed.
        prepare: Called before ``run`` with the same number, and not timed.
    """

    run: Callable[[int], Any]
    prepare: Callable[[int], Any] = lambda _: None


MakeStep = Callable[[], TimedStep]


def bound(
    array: Callable[[int], Any],
    address: Callable[[Any], int],
    size: int,
    threads: int,
    prepare: Callable[[int], Any] = lambda _: None,
) -> dict[str, MakeStep]:
    """Makes the lower bound: the fastest loop found that does the work of a step of NovoGrad.

    It sums the squares of a block of the gradient and then does the linear pass over the block,
    while the gradient is in the cache: 20 bytes a weight. A step must first sum a whole layer.

    Args:
        array: Makes a flat float32 array of the framework, in memory that the framework allocates.
        address: Returns the address of an array's elements.
        size: The number of elements of each array.
        threads: The number of threads, which share the elements.
        prepare: Called before each run, as for the other steps.

    Returns:
        A function that makes the step, by the name of the step; an empty dict if the native kernels
        cannot be used.
    """
    if native.PROBLEM:
        return {}

    def make() -> TimedStep:
        arrays = [array(size) for _ in range(3)]

        def run(_: int) -> None:
            weights, gradient, moment = map(address, arrays)
            native.kernels.traffic(
                weights=weights, gradient=gradient, moment=moment, size=size, threads=threads
            )

        return TimedStep(run, prepare)

    return {BOUND: make}


def measure(
    steps: Sequence[TimedStep], rounds: int, warm_up: int, watch: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Takes all steps once in each round, so that changes of the machine's speed affect all alike.

    Args:
        steps: The steps to measure.
        rounds: Measured rounds.
        warm_up: Rounds before them, which are not measured.
        watch: Called after each round, outside the measured time.

    Returns:
        Seconds, of shape (rounds, steps).

    Example:
        >>> measure([TimedStep(lambda number: None)] * 3, rounds=5, warm_up=1).shape
        (5, 3)
    """
    seconds = np.empty((warm_up + rounds, len(steps)))
    for number in range(len(seconds)):
        for i, step in enumerate(steps):
            step.prepare(number)
            start = time.perf_counter()
            step.run(number)
            seconds[number, i] = time.perf_counter() - start
        watch()
    return seconds[warm_up:]


def summary(seconds: np.ndarray, names: Iterable[str], ratios: Mapping[str, str]) -> Figures:
    """Returns the figures of each optimizer.

    Args:
        seconds: The result of ``measure``.
        names: The optimizers, in the order of ``seconds``.
        ratios: For each name of a ratio, the optimizer by whose times to divide, round by round.
            Ratios to an optimizer that was not measured are left out.

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
