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
            help=f"Frameworks, separated by commas: {', '.join(verification.FRAMEWORKS)}; "
            "by default all that are installed.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            callback=positive, help="Number of frameworks at once, each in its own process."
        ),
    ] = 2,
    full: Annotated[
        bool, typer.Option("--full", help="Run all checks, which takes about ten minutes.")
    ] = False,
) -> None:
    """Check on this machine that NovoGrad computes the same numbers in each framework.

    All implementations run cases of the same table. After each step, their weights and state are
    compared with a float64 reference. Errors are in units in the last place of the dtype. The exit
    status is 1 if any check fails.

    Without --full, only some checks run, in about two minutes: each implementation with each dtype,
    and each feature of the cases at least once in each framework. Only the first of Keras's
    backends runs the variants.

    \b
    Examples:
      novograd verify                               # all installed frameworks
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
