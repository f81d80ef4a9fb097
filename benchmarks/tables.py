"""Shows figures as a table."""

from typing import Any

from rich.console import Console
from rich.table import Table

from novograd.bench.timing import Figures

WIDTH = 140  # whatever the terminal's width is


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


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_text, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
