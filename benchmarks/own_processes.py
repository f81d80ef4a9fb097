"""Calls of a function, each in a process of its own."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")


def in_own_processes(function: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """Calls a function of a module with each name, each time in a new process, in turn."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(function, names))
