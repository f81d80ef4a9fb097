"""The tables of a comparison as data, for the terminal and the page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table as TerminalTable

from novograd.compare.analysis import Analysis, searched
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.sentences import at_default, robust, spread, steps_to_target


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: The text above the column; may have several lines.
        kind: The kind of its cells. Numbers are aligned right; a range stays on one line.
    """

    heading: str
    kind: Literal["text", "number", "range"] = "text"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: The columns.
        rows: The rows, each with one cell for each column.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def quality(analysis: Analysis) -> Table:
    """Tabulates the metrics: medians over the runs at each optimizer's best learning rate."""
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
    """Tabulates the good learning rates, the steps to the target, the memory and the time."""
    columns = (
        Column("optimizer"),
        Column(f"rates within\n{analysis.results['task']['margin']:g} of best", "range"),
        Column("steps to\ntarget", "number"),
        Column("state\nbytes", "number"),
        Column("step\nms", "number"),
        Column("update\nms", "number"),
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
    """Tabulates the settings and the learning rates of each optimizer."""
    columns = map(Column, ("optimizer", "settings", "learning rates searched", "default rate"))
    used = {one.name: one.settings for one in analysis.summaries}
    given = analysis.results["settings"]

    tried = searched(analysis.results)

    def row(name: str, rates: Iterable[float]) -> tuple[str, ...]:
        optimizer = OPTIMIZERS[name]
        default = optimizer.defaults.get(given["framework"])
        return (
            optimizer.title,
            _arguments(used.get(name, optimizer.settings)),
            ", ".join(f"{rate:g}" for rate in sorted({*rates, *tried[name]})),
            "-" if default is None else f"{default:g}",
        )

    return Table(
        tuple(columns), tuple(row(name, rates) for name, rates in given["learning_rates"].items())
    )


def rates(analysis: Analysis) -> Table:
    """Tabulates the results at every learning rate."""
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
    """Formats a table for the terminal; ``report/page.html`` formats it for the page.

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
    """Writes a value; a sequence as a tuple."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"({', '.join(map(_value, value))})"
    return str(value)
