"""What the benchmarks share: a model's shapes, measuring in turn, the figures, the machine."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def resnet50() -> Iterator[tuple[int, ...]]:
    """The shapes of ResNet-50's 161 variables, 25.6 million weights, in TensorFlow's layout."""
    yield from ((7, 7, 3, 64), (64,), (64,))
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        outputs = 4 * width
        for block in range(blocks):
            kernels = [(1, 1, inputs, width), (3, 3, width, width), (1, 1, width, outputs)]
            if block == 0:
                kernels.append((1, 1, inputs, outputs))
            for kernel in kernels:
                yield from (kernel, kernel[-1:], kernel[-1:])
            inputs = outputs
    yield from ((inputs, 1000), (1000,))


def measure(steps: Sequence[Callable[[int], Any]], rounds: int, warm_up: int) -> np.ndarray:
    """Calls all steps in turn, so that a change of the machine's speed meets them alike.

    Args:
        steps: What to measure; called with the number of the round.
        rounds: Rounds to keep.
        warm_up: Rounds before them.

    Returns:
        Seconds, of shape (rounds, steps).
    """
    seconds = np.empty((warm_up + rounds, len(steps)))
    for turn in range(len(seconds)):
        for i, step in enumerate(steps):
            start = time.perf_counter()
            step(turn)
            seconds[turn, i] = time.perf_counter() - start
    return seconds[warm_up:]


def summary(
    seconds: np.ndarray, traffic: Mapping[str, int], reference: str, ratio: str
) -> dict[str, dict[str, Any]]:
    """Returns the figures of each candidate.

    Args:
        seconds: From ``measure``.
        traffic: Bytes for each weight of each candidate, in the order of ``seconds``.
        reference: The candidate to which the others are compared, round by round.
        ratio: The name of the ratio in the result.
    """
    base = seconds[:, list(traffic).index(reference)]
    figures = {}
    for (name, bytes_), column in zip(traffic.items(), seconds.T, strict=True):
        low, median, high = statistics.quantiles(1e3 * column, n=4)
        figures[name] = {
            "ms_median": round(median, 3),
            "ms_quartiles": [round(low, 3), round(high, 3)],
            ratio: round(float(np.median(column / base)), 3),
            "bytes_per_weight": bytes_,
        }
    return figures


def show(title: str, figures: Mapping[str, Mapping[str, Any]], ratio: str) -> None:
    """Prints one table."""
    table = Table("optimizer", title=title)
    for heading in ("bytes a weight", "ms (quartiles)", "ratio"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        low, high = row["ms_quartiles"]
        table.add_row(
            name,
            str(row["bytes_per_weight"]),
            f"{row['ms_median']:.1f} ({low:.1f}-{high:.1f})",
            f"{row[ratio]:.2f}",
        )
    Console().print(table)


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
