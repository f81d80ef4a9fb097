"""Parts of a program, each in a process of its own, and the file that keeps their figures."""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from novograd.bench.runner import write
from novograd.results import machine

CORES = 2
T = TypeVar("T")


def in_own_processes(function: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """Calls a function of a module with each name, each time in a new process, in turn."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(function, names))


def keep_to_two_cores() -> None:
    """Has the processes that this one starts use two cores.

    In those, a framework makes as many threads when it is imported; here that was done before.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def keep(path: Path, part: str, framework: Any, figures: dict[str, Any]) -> None:
    """Puts the figures of a part into a result file, beside those of the other parts.

    Args:
        path: The file.
        part: The name of the part.
        framework: The module of ``novograd.bench`` that was measured.
        figures: What is to be kept.
    """
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = {**machine(), "threads": framework.threads(), **framework.VERSIONS}
    write(path, {**earlier, part: {**about, **figures}})
