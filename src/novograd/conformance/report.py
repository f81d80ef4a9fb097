"""How a verification is shown: progress while it runs, then a table and what was wrong."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from novograd.conformance.cases import Case
from novograd.conformance.verify import Row, Watch


@contextmanager
def progress(console: Console, names: Sequence[str]) -> Iterator[Watch]:
    """Shows a bar for each framework.

    Args:
        console: Where to show them.
        names: The frameworks.

    Yields:
        What ``verify`` is to call at each event.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks = {name: bars.add_task(name, start=False, total=None) for name in names}

        def watch(name: str, event: dict[str, Any]) -> None:
            if "checks" in event:
                bars.start_task(tasks[name])
                bars.update(tasks[name], total=event["checks"])
            else:
                bars.advance(tasks[name])

        yield watch


def table(rows: Sequence[Row]) -> Table:
    """Makes the table of a verification, 80 columns wide."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("framework", "version", "implementation", "dtype"):
        shown.add_column(name)
    shown.add_column("worst, ulps", justify="right")
    shown.add_column("result")
    said: tuple[str, ...] = ()
    for row in rows:
        # A name is shown where it changes.
        names = row.framework, row.version, row.implementation
        new = [name if names[: i + 1] != said[: i + 1] else "" for i, name in enumerate(names)]
        said = names
        worst = f"{row.ulps:.2f}" if row.cases > len(row.errors) else ""
        result = "[red]fail[/red]" if row.errors else "[green]pass[/green]"
        shown.add_row(*new, row.dtype, worst, result)
    return shown


def remarks(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each thing that was wrong, and the sum of it all."""
    wrong = [
        " ".join(filter(None, (row.framework, row.implementation, error)))
        for row in rows
        for error in row.errors
    ]
    cases, failed = sum(row.cases for row in rows), len(wrong)
    return [*wrong, f"{cases} checks of {Case.steps} steps each, {failed} failed."]
