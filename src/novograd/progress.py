"""Progress bars of programs that run at the same time, one for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Watch = Callable[[str, dict[str, Any]], None]


@contextmanager
def progress(console: Console, names: Sequence[str], drawn_per_second: float) -> Iterator[Watch]:
    """Shows a bar for each program.

    Args:
        console: Where to show them.
        names: The programs.
        drawn_per_second: How often the bars are drawn; that costs time of the processors.

    Yields:
        A function to be called with the name of a program and each event that it reports. An event
        with ``"total"`` starts the bar, and one with ``"done"`` moves it.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, refresh_per_second=drawn_per_second
    ) as bars:
        tasks = {name: bars.add_task(name, start=False, total=None) for name in names}

        def watch(name: str, event: dict[str, Any]) -> None:
            if "total" in event:
                bars.start_task(tasks[name])
                bars.update(tasks[name], total=event["total"])
            bars.advance(tasks[name], event.get("done", 0))

        yield watch
