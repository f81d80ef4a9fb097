"""The table and the remarks that ``novograd verify`` shows."""

from collections.abc import Sequence

from rich.table import Table

from novograd.conformance.cases import Case
from novograd.conformance.verify import Row


def table(rows: Sequence[Row]) -> Table:
    """Makes the table of a verification, 80 columns wide."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("framework", "version", "implementation", "dtype"):
        shown.add_column(name)
    shown.add_column("worst, ulps", justify="right")
    shown.add_column("result")
    said: tuple[str, ...] = ()
    for row in rows:
        # Names that repeat the row above are left empty.
        names = row.framework, row.version, row.implementation
        new = [name if names[: i + 1] != said[: i + 1] else "" for i, name in enumerate(names)]
        said = names
        worst = f"{row.ulps:.2f}" if row.cases > len(row.errors) else ""
        result = "[red]fail[/red]" if row.errors else "[green]pass[/green]"
        shown.add_row(*new, row.dtype, worst, result)
    return shown


def remarks(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each error, and a last line with the number of checks and failures."""
    wrong = [
        " ".join(filter(None, (row.framework, row.implementation, error)))
        for row in rows
        for error in row.errors
    ]
    cases, of, failed = sum(row.cases for row in rows), sum(row.of for row in rows), len(wrong)
    ran = f"{cases} checks" if cases == of else f"{cases} of {of} checks"
    more = "" if cases == of else " --full runs all of them."
    return [*wrong, f"{ran} were run, with {Case.steps} steps each; {failed} failed.{more}"]
