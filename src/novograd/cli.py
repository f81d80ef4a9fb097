"""The ``novograd`` command."""

import math
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console

    from novograd.compare import report, runner
    from novograd.conformance import report as verification_report
    from novograd.conformance import verify as verification
except ModuleNotFoundError as missing:
    # Not in main(): without typer, the commands below cannot even be declared.
    sys.exit(f"novograd: no module {missing.name}: pip install novograd-optimizer[compare]")

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Task = StrEnum("Task", ["brain"])
Framework = StrEnum("Framework", list(runner.FRAMEWORKS))
TENSORFLOW = Framework["tensorflow"]
Optimizer = StrEnum("Optimizer", list(runner.LEARNING_RATES))
Verified = StrEnum("Verified", list(verification.FRAMEWORKS))


def _positive(value: int) -> int:
    """Checks an option that counts something."""
    if value < 1:
        raise typer.BadParameter(f"{value} is not 1 or more.")
    return value


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


@app.callback()
def novograd() -> None:
    """NovoGrad, the optimizer with layer-wise normalised gradients."""


@app.command()
def compare(
    task: Annotated[Task, typer.Argument(help="What to train on.")] = Task.brain,
    framework: Annotated[Framework, typer.Option(help="Framework to train with.")] = TENSORFLOW,
    seeds: Annotated[int, typer.Option(callback=_positive, help="Runs of each optimizer.")] = 3,
    steps: Annotated[
        int, typer.Option(callback=_positive, help="Training steps of a run.")
    ] = runner.STEPS,
    jobs: Annotated[
        int, typer.Option(callback=_positive, help="Runs at once, one thread each.")
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


@app.command()
def verify(
    framework: Annotated[
        list[Verified] | None,
        typer.Option(help="Framework to verify; repeatable; all that are installed if not given."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(callback=_positive, help="Frameworks at once, a process each.")
    ] = 2,
) -> None:
    """Check on this machine that NovoGrad computes the same numbers in each framework.

    Every implementation is put through the same cases, and its weights and state are compared
    after each step with a float64 reference. Errors are in units in the last place of the dtype;
    the exit status is 1 if any check fails.
    """
    installed = verification.installed()
    names = [str(name) for name in framework or installed]
    for name in names:
        if name not in installed:
            needed = " and ".join(verification.FRAMEWORKS[name].needs)
            raise typer.BadParameter(f"{name} needs {needed}", param_hint="'--framework'")
    console = Console(highlight=False)
    with verification_report.progress(console, names) as watch:
        rows = verification.verify(names, jobs, watch)
    console.print()
    console.print(verification_report.table(rows))
    console.print()
    for remark in verification_report.remarks(rows):
        console.print(remark, markup=False)
    if any(row.errors for row in rows):
        raise typer.Exit(1)


def main() -> None:
    """Runs the command line."""
    app(prog_name="novograd")


if __name__ == "__main__":
    main()
