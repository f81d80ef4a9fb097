"""``novograd verify``."""

from typing import Annotated

import typer
from rich.console import Console

from novograd.cli.options import installed, positive, some_of
from novograd.conformance import report
from novograd.conformance import verify as verification
from novograd.progress import progress


def verify(
    framework: Annotated[
        list[str] | None,
        typer.Option(
            callback=some_of(verification.FRAMEWORKS),
            metavar="NAME,...",
            help=f"Framework to verify: {', '.join(verification.FRAMEWORKS)}; several with commas; "
            "all that are installed if not given.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(callback=positive, help="Frameworks at once, a process each.")
    ] = 2,
    full: Annotated[
        bool, typer.Option("--full", help="Run all checks, which takes about ten minutes.")
    ] = False,
) -> None:
    """Check on this machine that NovoGrad computes the same numbers in each framework.

    Every implementation is put through cases of one table, and its weights and state are compared
    after each step with a float64 reference. Errors are in units in the last place of the dtype;
    the exit status is 1 if any check fails.

    Without --full the checks are a choice that takes about two minutes: each implementation with
    each dtype, and each feature of the cases at least once in each framework. Of Keras's backends
    the first runs the variants.

    \b
    Examples:
      novograd verify                               # all that is installed
      novograd verify --framework torch
      novograd verify --framework jax,keras-jax --jobs 1
      novograd verify --full                        # every implementation, every case
    """  # noqa: D301
    names = installed(framework, verification.installed(), verification.FRAMEWORKS)
    console = Console(highlight=False)
    with progress(console, names, drawn_per_second=10) as watch:
        rows = verification.verify(names, jobs, full, watch)
    console.print()
    console.print(report.table(rows))
    console.print()
    for remark in report.remarks(rows):
        console.print(remark, markup=False)
    if any(row.errors for row in rows):
        raise typer.Exit(1)
