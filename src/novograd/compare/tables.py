"""The tables of a comparison as data, for the terminal and the page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table as TerminalTable

from novograd.compare.analysis import Analysis, Pair, Summary, Times
from novograd.compare.optimizers import find
from novograd.compare.sentences import good_rates, spread, steps_to_target

SHOWN, NOT_COMPARED = "*", "not compared"  # a shown difference in the matrix; a pair


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: The text above the column; may have several lines.
        kind: The kind of its cells. Numbers are aligned right; a range stays on one line.
    """

    heading: str
    kind: Literal["text", "number", "range"] = "text"


TIMES = (
    Column("step\nms", "number"),
    Column("update\nms", "number"),
    Column("share of\nthe step", "number"),
)


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
    """Tabulates the metrics on test data at each optimizer's chosen learning rate: medians."""
    parts = list(analysis.summaries[0].metrics)[1:] if analysis.summaries else []
    columns = (
        Column("optimizer"),
        Column("learning\nrate", "number"),
        Column(f"{analysis.metric} (test)\nmedian (range)", "range"),
        *(Column(name, "number") for name in parts),
        Column("seeds", "number"),
    )
    rows = (
        (
            one.title,
            f"{one.judged.rate:g}",
            spread(one.judged.scores),
            *(f"{one.metrics[name]:.3g}" for name in parts),
            f"{len(one.judged.finished)}",
        )
        for one in analysis.summaries
    )
    return Table(columns, tuple(rows))


def matrix(analysis: Analysis) -> Table:
    """Tabulates how much better each optimizer of a row is than that of a column.

    A cell has the mean paired difference, positive if the row is better, and ``SHOWN`` if a
    difference is shown.
    """
    summaries = analysis.summaries

    def cell(row: Summary, column: Summary) -> str:
        if row is column:
            return "."
        pair = analysis.pair(row.name, column.name)
        if pair.gain is None:
            return "?"
        sign = 1 if pair.better is row else -1
        return f"{sign * pair.gain.mean:+.3f}{SHOWN if pair.outcome == 'ahead' else ' '}"

    columns = (
        Column("row is better\nthan column by"),
        *(Column(one.title.replace(" ", "\n"), "number") for one in summaries),
    )
    rows = ((row.title, *(cell(row, column) for column in summaries)) for row in summaries)
    return Table(columns, tuple(rows))


def differences(analysis: Analysis, subject: str | None = None) -> Table:
    """Tabulates the paired differences with their intervals.

    Args:
        analysis: The analysis of the comparison.
        subject: The name of an optimizer: only its pairs, and positive numbers if it is better.
            None: all pairs, the better optimizer first.
    """
    margin = analysis.results["task"]["margin"]
    title = "" if subject is None else analysis.results["optimizers"][subject]
    columns = (
        *([] if subject else [Column("optimizer")]),
        Column(f"{title}\ncompared with" if subject else "compared with"),
        Column(f"better by\n({analysis.metric})", "number"),
        Column("95 % interval", "range"),
        *([Column("in\nmargins", "number")] if margin else []),
        Column("conclusion", "range"),
    )

    def row(pair: Pair) -> tuple[str, ...]:
        turned = pair.worse.name == subject
        first, second = (pair.worse, pair.better) if turned else (pair.better, pair.worse)
        names = (second.title,) if subject else (first.title, second.title)
        if pair.gain is None:
            return (*names, *["-"] * (len(columns) - len(names) - 1), NOT_COMPARED)
        mean, low, high = pair.gain.mean, pair.gain.low, pair.gain.high
        if turned:
            mean, low, high = -mean, -high, -low
        return (
            *names,
            f"{mean:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            *([f"{mean / margin:+.1f}"] if margin else []),
            "behind" if turned and pair.outcome == "ahead" else pair.outcome,
        )

    chosen = [
        pair
        for pair in analysis.pairs
        if subject is None or subject in (pair.better.name, pair.worse.name)
    ]
    return Table(columns, tuple(map(row, chosen)))


def cost(analysis: Analysis) -> Table:
    """Tabulates the good learning rates, the steps to the target, the memory and the time.

    The time is left out if there are several kinds of machines, see ``times``.
    """
    margin = analysis.results["task"]["margin"]
    alone = len(analysis.machines) == 1
    columns = (
        Column("optimizer"),
        *([Column(f"rates within\n{margin:g} of best", "range")] if margin else []),
        Column("steps to\ntarget", "number"),
        Column("state\nbytes", "number"),
        *(TIMES if alone else ()),
    )
    rows = (
        (
            one.title,
            *([good_rates(one)] if margin else []),
            steps_to_target(one),
            f"{one.state_bytes:,}",
            *(_times(one.times[analysis.machines[0]]) if alone else ()),
        )
        for one in analysis.summaries
    )
    return Table(columns, tuple(rows))


def times(analysis: Analysis) -> Table:
    """Tabulates the times of each optimizer on each kind of machine."""
    columns = (Column("machine"), Column("optimizer"), *TIMES, Column("runs", "number"))
    rows = (
        (machine, one.title, *_times(one.times[machine]), f"{one.times[machine].runs}")
        for machine in analysis.machines
        for one in analysis.summaries
        if machine in one.times
    )
    return Table(columns, tuple(rows))


def settings(analysis: Analysis) -> Table:
    """Tabulates the settings and the learning rates of each optimizer."""
    columns = map(Column, ("optimizer", "settings", "learning rates tried", "default rate"))
    titles, runs = analysis.results["optimizers"], analysis.results["runs"]
    used = {one.name: one for one in analysis.summaries}

    def row(name: str) -> tuple[str, ...]:
        arguments = used[name].settings if name in used else find(name).settings
        default = used[name].default if name in used else None
        tried = sorted({run["learning_rate"] for run in runs if run["optimizer"] == name})
        return (
            titles[name],
            _arguments(arguments),
            ", ".join(f"{rate:g}" for rate in tried),
            "-" if default is None else f"{default:g}",
        )

    return Table(tuple(columns), tuple(map(row, titles)))


def terminal(table: Table) -> TerminalTable:
    """Formats a table for the terminal; ``report/assets/macros.html`` formats it for the page.

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


def _times(times: Times) -> tuple[str, ...]:
    return f"{times.step_ms:.3g}", f"{times.update_ms:.2g}", f"{times.share:.0%}"


def _arguments(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    """Writes a value; a sequence as a tuple."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"({', '.join(map(_value, value))})"
    return str(value)
