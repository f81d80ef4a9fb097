"""``novograd verify``."""

from typing import Annotated

import typer
from rich.console import Console

from novograd.cli.options import positive, some_of
from novograd.conformance import report
from novograd.conformance import verify as verification


def verify(
    framework: Annotated[
        list[str] | None,
        typer.Option(
            callback=some_of(verification.FRAMEWORKS),
            help=f"Framework to verify: {', '.join(verification.FRAMEWORKS)}; several with commas; "
            "all that are installed if not given.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(callback=positive, help="Frameworks at once, a process each.")
    ] = 2,
) -> None:
    """Check on this machine that NovoGrad computes the same numbers in each framework.

    Every implementation is put through the same cases, and its weights and state are compared
    after each step with a float64 reference. Errors are in units in the last place of the dtype;
    the exit status is 1 if any check fails.
    """
    installed = verification.installed()
    names = list(framework or installed)
    for name in names:
        if name not in installed:
            needed = " and ".join(verification.FRAMEWORKS[name].needs)
            raise typer.BadParameter(f"{name} needs {needed}", param_hint="'--framework'")
    console = Console(highlight=False)
    with report.progress(console, names) as watch:
        rows = verification.verify(names, jobs, watch)
    console.print()
    console.print(report.table(rows))
    console.print()
    for remark in report.remarks(rows):
        console.print(remark, markup=False)
    if any(row.errors for row in rows):
        raise typer.Exit(1)
