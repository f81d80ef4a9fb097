"""``novograd compare``."""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from novograd.cli.options import positive
from novograd.compare import report, runner

Task = StrEnum("Task", ["brain"])
Framework = StrEnum("Framework", list(runner.FRAMEWORKS))
TENSORFLOW = Framework["tensorflow"]
Optimizer = StrEnum("Optimizer", list(runner.LEARNING_RATES))


def _learning_rates(optimizers: Iterable[str], settings: Sequence[str]) -> dict[str, float]:
    """Gives each optimizer its learning rate: from ``NAME=VALUE`` settings, else the default."""
    rates = {name: runner.LEARNING_RATES[name] for name in map(str, optimizers)}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if name not in rates or not 0 < value < math.inf:
            raise typer.BadParameter(
                f"{setting!r} is not NAME=VALUE with NAME one of {', '.join(rates)} and VALUE a "
                "positive finite number",
                param_hint="'--learning-rate'",
            )
        rates[name] = value
    return rates


def compare(
    task: Annotated[Task, typer.Argument(help="What to train on.")] = Task.brain,
    framework: Annotated[Framework, typer.Option(help="Framework to train with.")] = TENSORFLOW,
    seeds: Annotated[int, typer.Option(callback=positive, help="Runs of each optimizer.")] = 3,
    steps: Annotated[
        int, typer.Option(callback=positive, help="Training steps of a run.")
    ] = runner.STEPS,
    jobs: Annotated[
        int, typer.Option(callback=positive, help="Runs at once, one thread each.")
    ] = 2,
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Learning rate of an optimizer; repeatable."),
    ] = None,
    optimizer: Annotated[
        list[Optimizer] | None,
        typer.Option(help="Optimizer to compare; repeatable; all of them if not given."),
    ] = None,
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Directory for the results.")
    ] = Path("novograd-compare"),
) -> None:
    """Train a real network with several optimizers and compare the results.

    A small U-Net learns to label the tissues in slices of a brain MRI that this package brings
    along. It is a Keras model in every framework, the optimizers are the framework's own. The
    output directory gets results.json and learning-curves.png. Ctrl-C keeps what was finished.
    """
    rates = _learning_rates(optimizer or list(Optimizer), learning_rate or [])
    missing = [name for name in runner.FRAMEWORKS[framework] if find_spec(name) is None]
    if missing:
        raise typer.BadParameter(
            f"{framework} needs {' and '.join(missing)}: "
            f"pip install novograd-optimizer[{framework},keras]",
            param_hint="'--framework'",
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the directory {str(output)!r}: {error.strerror}", param_hint="'--output'"
        ) from None

    console = Console(markup=False, highlight=False)
    runs = runner.plan(framework, rates, seeds, steps)
    console.print(f"{task} with {framework}: {len(runs)} runs of {steps} steps, {jobs} at a time")
    with report.Display(console, runs) as display:
        results = runner.compare(runs, jobs, output / "results.json", display)

    console.print()
    console.print(report.table(results))
    console.print()
    for remark in report.remarks(results):
        console.print(remark)
    if any(row["status"] == "finished" for row in results["runs"]):
        report.picture(results, output / "learning-curves.png")
    console.print(f"Results: {output}")
    if results["status"] == "interrupted":
        raise typer.Exit(130)
    if any(row["status"] == "failed" for row in results["runs"]):
        raise typer.Exit(1)
