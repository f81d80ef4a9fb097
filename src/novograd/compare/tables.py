"""The tables of a comparison, as data: the terminal and the page show the same ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table as TerminalTable

from novograd.compare.analysis import Analysis
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.sentences import at_default, robust, spread, steps_to_target


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its name, in lines.
        kind: Of its cells: numbers stand to the right, and a range is never broken.
    """

    heading: str
    kind: Literal["text", "number", "range"] = "text"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Its columns.
        rows: The cells, as many in each row as there are columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def quality(analysis: Analysis) -> Table:
    """Tabulates what each optimizer reaches: medians over the runs at its best learning rate."""
    parts = list(analysis.summaries[0].metrics)[1:] if analysis.summaries else []
    columns = (
        Column("optimizer"),
        Column("best\nrate", "number"),
        Column(f"{analysis.metric}\nmedian (range)", "range"),
        *(Column(name, "number") for name in parts),
        Column("at default\nrate", "range"),
    )
    rows = (
        (
            one.title,
            f"{one.best.rate:g}",
            spread(one.best),
            *(f"{one.metrics[name]:.3g}" for name in parts),
            at_default(one),
        )
        for one in analysis.summaries
    )
    return Table(columns, tuple(rows))


def cost(analysis: Analysis) -> Table:
    """Tabulates how robust, how fast and how dear each optimizer is."""
    columns = (
        Column("optimizer"),
        Column(f"within {analysis.results['task']['margin']:g}\nof its best", "range"),
        Column("steps to\ntarget", "number"),
        Column("state\nbytes", "number"),
        Column("step\nms", "number"),
        Column("its\nms", "number"),
        Column("share of\nthe step", "number"),
    )
    rows = (
        (
            one.title,
            robust(one),
            steps_to_target(one),
            f"{one.state_bytes:,}",
            f"{one.step_ms:.3g}",
            f"{one.update_ms:.2g}",
            f"{one.share:.0%}",
        )
        for one in analysis.summaries
    )
    return Table(columns, tuple(rows))


def settings(analysis: Analysis) -> Table:
    """Tabulates what each optimizer was given."""
    columns = map(Column, ("optimizer", "settings", "learning rates searched", "its default"))
    used = {one.name: one.settings for one in analysis.summaries}
    given = analysis.results["settings"]

    def row(name: str, rates: Iterable[float]) -> tuple[str, ...]:
        optimizer = OPTIMIZERS[name]
        default = optimizer.defaults.get(given["framework"])
        return (
            optimizer.title,
            _arguments(used.get(name, optimizer.settings)),
            ", ".join(f"{rate:g}" for rate in rates),
            "-" if default is None else f"{default:g}",
        )

    return Table(
        tuple(columns), tuple(row(name, rates) for name, rates in given["learning_rates"].items())
    )


def rates(analysis: Analysis) -> Table:
    """Tabulates every learning rate."""
    columns = (
        Column("optimizer"),
        Column("learning rate", "number"),
        Column("runs finished", "number"),
        Column(f"{analysis.metric}, median (range)", "range"),
    )
    rows = (
        (
            one.title,
            f"{point.rate:g}",
            f"{len(point.scores)} of {point.ended}",
            spread(point) if point.scores else "-",
        )
        for one in analysis.summaries
        for point in one.points
    )
    return Table(columns, tuple(rows))


def terminal(table: Table) -> TerminalTable:
    """Returns a table as the terminal shows it; ``report/page.html`` shows it on the page.

    Example:
        >>> table = Table((Column("name"), Column("value", "number")), (("one", "1"),))
        >>> [column.justify for column in terminal(table).columns]
        ['left', 'right']
    """
    shown = TerminalTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in table.columns:
        shown.add_column(
            column.heading,
            justify="right" if column.kind == "number" else "left",
            no_wrap=column.kind == "range",
        )
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _arguments(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    """Writes a setting, a sequence of them as a tuple."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"({', '.join(map(_value, value))})"
    return str(value)
