"""Runs the parts of a benchmark in separate processes, and keeps their figures in one file."""

import json
import os
import re
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
    """Calls a module's function with each name, one after the other, each in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(function, names))


def keep_to_two_cores() -> None:
    """Makes the processes that this one starts use two cores.

    A framework makes one thread for each core when it is imported. This process has imported it
    already, so only new processes have two threads.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def result_file(name: str) -> Path:
    """Returns the result file of a benchmark for this machine's processor.

    Files without a processor in their names are older.
    """
    processor = re.sub(r"[^a-z0-9]+", "-", machine()["processor"].lower()).strip("-")
    return Path(__file__).parent / "results" / f"{name}-{processor}.json"


def keep(path: Path, part: str, framework: Any, figures: dict[str, Any]) -> None:
    """Writes the figures of a part into a result file, and keeps those of the other parts.

    Args:
        path: The file.
        part: The name of the part.
        framework: The measured module of ``novograd.bench``.
        figures: The figures of the part.
    """
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = {**machine(), "threads": framework.threads(), **framework.VERSIONS}
    write(path, {**earlier, part: {**about, **figures}})
