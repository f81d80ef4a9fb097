"""Progress bars of worker processes that run at the same time, one for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Watch = Callable[[str, dict[str, Any]], None]


@contextmanager
def progress(console: Console, names: Sequence[str], drawn_per_second: float) -> Iterator[Watch]:
    """Shows a progress bar for each worker.

    Args:
        console: Where to show the bars.
        names: The names of the workers.
        drawn_per_second: How often to redraw the bars; redrawing uses processor time.

    Yields:
        A function to call with the name of a worker and each event that the worker reports. An
        event with ``"total"`` starts the bar, and one with ``"done"`` advances it.
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
