"""``novograd bench``."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from novograd.bench import report, runner
from novograd.bench.shapes import SHAPES
from novograd.cli.options import installed, positive, some_of
from novograd.progress import progress

DEFAULT = ["resnet-50"]


def _new_file(path: Path | None) -> Path | None:
    """Checks that the result file can be written and is not there yet."""
    if path is None:
        return None
    directory = path.parent
    if path.exists():
        problem = f"{path} is there already; give another name, or remove it."
    elif not directory.is_dir():
        problem = f"there is no directory {directory}."
    elif not os.access(directory, os.W_OK):
        problem = f"the directory {directory} cannot be written to."
    else:
        return path
    raise typer.BadParameter(problem)


def bench(
    framework: Annotated[
        list[str] | None,
        typer.Option(
            callback=some_of(runner.FRAMEWORKS),
            metavar="NAME,...",
            help=f"Framework to measure: {', '.join(runner.FRAMEWORKS)}; several with commas; all "
            "that are installed if not given.",
        ),
    ] = None,
    shapes: Annotated[
        list[str],
        typer.Option(
            callback=some_of(SHAPES),
            metavar="NAME,...",
            help=f"Whose weights take the step: {', '.join(SHAPES)}; several with commas. gpt-2 "
            "takes 12 GB of memory in PyTorch.",
        ),
    ] = DEFAULT,
    rounds: Annotated[
        int, typer.Option(callback=positive, help="Steps of each optimizer, after a warm-up.")
    ] = 30,
    output: Annotated[
        Path | None,
        typer.Option(
            callback=_new_file,
            metavar="FILE",
            help="File for the figures, JSON; it must not be there yet.",
        ),
    ] = None,
) -> None:
    """Measure on this machine how long an optimizer step takes.

    NovoGrad is measured beside the framework's own optimizers, the published NovoGrads that are
    installed, and the bound, a loop that moves as much memory as a step has to. All weights are
    float32, on the CPU. Each framework has a process of its own; in it all optimizers take their
    steps in turn, so that a change of the machine's speed meets them alike. Leave the machine
    alone meanwhile. Ctrl-C stops it, and writes nothing.

    \b
    Examples:
      novograd bench                                # all that is installed
      novograd bench --framework torch --rounds 5   # a quick look
      novograd bench --shapes resnet-50,u-net,tiny --output figures.json
    """  # noqa: D301
    names = installed(framework, runner.installed(), runner.FRAMEWORKS)
    console = Console(highlight=False)
    # Seldom drawn: the processors that draw it are those that are measured.
    with progress(console, names, drawn_per_second=1) as watch:
        result = runner.bench(names, list(dict.fromkeys(shapes)), rounds, watch)
    for measured in result["frameworks"].values():
        if measured["results"]:
            console.print()
            console.print(report.table(measured))
    console.print()
    for remark in report.remarks(result):
        console.print(remark, markup=False)
    if output:
        runner.write(output, result)
        console.print(f"Figures: {output}", markup=False)
    if any("error" in measured for measured in result["frameworks"].values()):
        raise typer.Exit(1)
