"""What the benchmarks share: measuring in turn, the bound, the figures, the machine."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from novograd import native

Figures = dict[str, dict[str, Any]]
T = TypeVar("T")
WIDTH = 140  # also where there is no terminal


class Step(NamedTuple):
    """What to measure.

    Attributes:
        run: Called with the number of the round, and timed.
        prepare: Called with it before, and not timed.
    """

    run: Callable[[int], Any]
    prepare: Callable[[int], Any] = lambda _: None


def bound(arrays: Sequence[Any], address: Callable[[Any], int], size: int, threads: int) -> Step:
    """Returns the plainest loop that moves what a step of NovoGrad has to: 24 bytes a weight.

    Args:
        arrays: Three flat ones of the framework, float32, to have its kind of memory.
        address: Gives where the elements of one are.
        size: How many elements each has.
        threads: How many move a part each.

    Raises:
        RuntimeError: If the native kernels are not installed.
    """
    native.require()

    def run(_: int) -> None:
        weights, gradient, moment = map(address, arrays)
        native.kernels.traffic(
            weights=weights, gradient=gradient, moment=moment, size=size, threads=threads
        )

    return Step(run)


def measure(steps: Sequence[Step], rounds: int, warm_up: int) -> np.ndarray:
    """Takes all steps in turn, so that a change of the machine's speed meets them alike.

    Args:
        steps: What to measure.
        rounds: Rounds to keep.
        warm_up: Rounds before them.

    Returns:
        Seconds, of shape (rounds, steps).
    """
    seconds = np.empty((warm_up + rounds, len(steps)))
    for turn in range(len(seconds)):
        for i, step in enumerate(steps):
            step.prepare(turn)
            start = time.perf_counter()
            step.run(turn)
            seconds[turn, i] = time.perf_counter() - start
    return seconds[warm_up:]


def summary(seconds: np.ndarray, names: Iterable[str], ratios: Mapping[str, str]) -> Figures:
    """Returns the figures of each candidate.

    Args:
        seconds: From ``measure``.
        names: The candidates, in the order of ``seconds``.
        ratios: For each name of a ratio the candidate to which it is, round by round.
    """
    columns = dict(zip(names, seconds.T, strict=True))
    figures: Figures = {}
    for name, column in columns.items():
        low, median, high, most = np.percentile(1e3 * column, (25, 50, 75, 90)).round(3).tolist()
        figures[name] = {"ms_median": median, "ms_quartiles": [low, high], "ms_90th": most}
        for ratio, base in ratios.items():
            figures[name][ratio] = round(float(np.median(column / columns[base])), 3)
    return figures


def show(title: str, figures: Figures) -> None:
    """Prints one table, with a column for each figure."""
    keys = list(dict.fromkeys(key for row in figures.values() for key in row))
    table = Table(title=title)
    table.add_column(no_wrap=True)
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right")
    for name, row in figures.items():
        table.add_row(name, *(_text(row.get(key, "")) for key in keys))
    Console(width=WIDTH).print(table)


def in_own_processes(function: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """Calls a function of a module with each name, each time in a new process, in turn."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(function, names))


def machine() -> dict[str, Any]:
    """Returns what a result file says about the machine and the day."""
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """Returns the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_text, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
