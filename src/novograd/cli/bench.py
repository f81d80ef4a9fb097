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
    """Checks that the result file does not exist and can be written."""
    if path is None:
        return None
    directory = path.parent
    if path.exists():
        problem = f"{path} already exists; give another name, or remove it."
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
            help=f"Frameworks to measure, separated by commas: {', '.join(runner.FRAMEWORKS)}. "
            "Default: all that are installed.",
        ),
    ] = None,
    shapes: Annotated[
        list[str],
        typer.Option(
            callback=some_of(SHAPES),
            metavar="NAME,...",
            help=f"Models whose weights are updated, separated by commas: {', '.join(SHAPES)}. "
            "gpt-2 needs 8 GB of memory in PyTorch.",
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
            help="JSON file for the figures; it must not exist yet.",
        ),
    ] = None,
) -> None:
    """Measure how long an optimizer step takes on this machine.

    The command measures NovoGrad, the framework's own optimizers, the published NovoGrads that are
    installed, and a lower bound: the fastest loop found for the work of a step. All weights are
    float32, on the CPU. As in a training, each optimizer is measured while no other is in the
    process but the reference, the framework's own optimizer. In each round both take one step, so
    that changes of the machine's speed affect both alike. The rounds are divided among three
    processes. Do not use the machine for anything else meanwhile. Ctrl-C stops the command; it
    writes nothing then.

    \b
    Examples:
      novograd bench                                # all that is installed
      novograd bench --framework torch --rounds 5   # a quick look
      novograd bench --shapes resnet-50,u-net,tiny --output figures.json
    """  # noqa: D301
    names = installed(framework, runner.installed(), runner.FRAMEWORKS)
    console = Console(highlight=False)
    # Redrawn seldom: drawing uses the processors that are measured.
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
