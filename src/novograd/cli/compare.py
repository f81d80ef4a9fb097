"""``novograd compare``."""

import asyncio
import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from novograd.cli import cluster as clusters
from novograd.cli.optimizers import arguments, grids, names
from novograd.cli.options import known, one_of, positive
from novograd.compare import devices, report, runner, tables
from novograd.compare.analysis import analyse
from novograd.compare.display import Display
from novograd.compare.executors import Executor, Local, StoppedError
from novograd.compare.load import is_file, load, parts
from novograd.compare.optimizers import OPTIMIZERS, is_place
from novograd.compare.plan import Settings
from novograd.compare.sentences import remarks
from novograd.compare.tasks import BUILT_IN
from novograd.compare.training import SCHEDULES
from novograd.compare.worker import about

if TYPE_CHECKING:  # Ray is imported only for --cluster
    from novograd.compare.cluster import Cluster

RECOMMENDED = "novograd:rows"
DEFAULT = [f"novograd,{RECOMMENDED},adamw,nadamw,sgd"]
AUTO = ["auto"]
OUTPUT = Path("novograd-compare")


def _device(device: str) -> str:
    """Checks the form of ``--device``."""
    try:
        return devices.checked(device)
    except devices.DeviceError as error:
        raise typer.BadParameter(str(error)) from None


def compare(
    task: Annotated[
        str,
        typer.Argument(
            help=f"Task to train: {', '.join(BUILT_IN)}, or your own task: a Python file or a "
            "module that defines `task`, or FILE.py:NAME."
        ),
    ] = "brain",
    framework: Annotated[
        str | None,
        typer.Option(
            callback=one_of(runner.FRAMEWORKS),
            help=f"Framework to train with: {', '.join(runner.FRAMEWORKS)}. By default "
            "the framework of your model, or the first that is installed.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            callback=_device,
            metavar="auto|cpu|cuda|cuda:NUMBER",
            help="Device to train on: the CPU or, with "
            f"{' or '.join(devices.WITH_GPU)}, all NVIDIA GPUs or one of them. By default GPUs, "
            "if there are any that work.",
        ),
    ] = devices.AUTO,
    optimizers: Annotated[
        list[str],
        typer.Option(
            callback=names,
            metavar="NAME,...",
            help=f"Optimizers to compare: {', '.join(OPTIMIZERS)}; novograd:NAME for any variant "
            "of `novograd variants`; a class such as torch.optim.RAdam; or your own function, "
            "MODULE:NAME or FILE.py:NAME.",
        ),
    ] = DEFAULT,
    rates: Annotated[
        list[str],
        typer.Option(
            "--learning-rates",
            metavar="auto|NAME=RATE,...",
            help="Learning rates to try, instead of seven or more around the usual one, for "
            "example adamw=0.001,0.003,0.01. May be repeated.",
        ),
    ] = AUTO,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME.ARGUMENT=VALUE",
            help="An argument of an optimizer, by the name that its class in the framework uses, "
            "for example adamw.betas=.9,.98. May be repeated.",
        ),
    ] = [],  # noqa: B006
    schedule: Annotated[
        str,
        typer.Option(
            callback=one_of(SCHEDULES),
            help="Learning rate schedule after the warm-up, which is a tenth of the steps: "
            f"{', '.join(SCHEDULES)}.",
        ),
    ] = "cosine",
    seeds: Annotated[
        int | None,
        typer.Option(
            callback=positive,
            help="Number of seeds that judge the chosen learning rates: 5, or 3 with --quick.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            callback=positive, help="Training steps of a run. Each task has its own default."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Begin with three learning rates, not seven; choose the best rate with one seed, "
            "not three; judge it with three seeds, not five.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            callback=positive,
            help="Number of runs at once, each with one thread: by default "
            f"{devices.CPU_JOBS}, or one on each GPU.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            callback=clusters.address,
            metavar=clusters.FORM,
            help="Ray cluster that does the runs: auto for the cluster that this machine is a node "
            "of; ray://HOST:PORT from any other machine. It decides how many runs to do at once.",
        ),
    ] = None,
    cpus_per_run: Annotated[
        int | None,
        typer.Option(
            callback=positive,
            help="CPUs that --cluster reserves for each run: by default 1. A run has one thread; "
            "the others are for processes that your task starts.",
        ),
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            callback=clusters.gpus,
            metavar="0...1",
            help="GPUs that --cluster reserves for each run, for example 1 or 0.25: by default 0, "
            "which trains on CPUs.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a comparison that was not finished."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Directory for the results. By default novograd-compare/TASK-FRAMEWORK, with a "
            "number at the end if it already has results.",
        ),
    ] = None,
) -> None:
    """Train a model with several optimizers and compare the results.

    Validation data choose the learning rate of each optimizer, by the same rules for all. Then
    other seeds are judged on test data and compared seed by seed. Each run has its own process. The
    output directory gets report.html, results.json and the figures. Use --resume to continue a
    comparison that was stopped.

    \b
    Examples:
      novograd compare                              # the task brain, some minutes
      novograd compare text --framework torch --quick
      novograd compare brain3d --framework torch --device cuda
      novograd compare digits --optimizers novograd:apex,torch.optim.RAdam --seeds 9
      novograd compare brain --set novograd:rows.clip=2 --set adamw.betas=.9,.98
      novograd compare my_task.py --learning-rates novograd=0.003,0.01,0.03
      novograd compare my_task.py --cluster auto --gpus-per-run 1
      novograd compare brain --resume
    """  # noqa: D301
    console = Console(markup=False, highlight=False)
    given = arguments(sets, optimizers)
    trial = {name: given.get(name, {}) for name in optimizers if name in given or is_place(name)}
    fixed = {"--device": device != devices.AUTO, "--jobs": jobs is not None}
    own = [task, *optimizers]
    with clusters.connected(cluster, cpus_per_run, gpus_per_run, own, fixed, console) as there:
        where = _where(device, there)
        framework, described, device = _task(task, framework, where, trial, steps, console)
        middles = described.pop("default_rates", {}) | described["learning_rates"]
        learning_rates, searched = grids(optimizers, rates, framework, middles, quick)
        settings = Settings(
            task=task,
            framework=framework,
            learning_rates=learning_rates,
            seeds=seeds or (3 if quick else 5),
            steps=steps or described["steps"],
            schedule=schedule,
            quick=quick,
            device=device,
            extended=searched,
            arguments=given,
        )
        executor, jobs = _executor(settings, described.get("kind", "keras"), where, jobs)
        output = _directory(output, settings, resume)
        command = shlex.join(["novograd", *(word for word in sys.argv[1:] if word != "--resume")])
        title = devices.title(device, where.gpus)
        fresh = runner.begin(settings, described, jobs, command, title)
        try:
            with runner.locked(output):
                path = output / runner.RESULTS
                if path.exists() and not resume:
                    raise typer.BadParameter(
                        f"{path} already exists; use --resume to continue it, or another --output "
                        "to keep it",
                        param_hint="'--output'",
                    )
                results = runner.resume(path, fresh) if resume else fresh
                _run(results, settings, output, executor, jobs, console)
        except runner.InUseError as error:
            raise typer.BadParameter(str(error), param_hint="'--output'") from None
        except runner.OtherComparisonError as error:
            raise typer.BadParameter(str(error), param_hint="'--resume'") from None


@dataclass(frozen=True)
class _Where:
    """Where a comparison trains.

    Attributes:
        device: The device: on this machine, the user's choice.
        gpus: The names of the GPUs, see ``devices.gpus``.
        cluster: The cluster that trains, instead of this machine.
    """

    device: str
    gpus: Sequence[str]
    cluster: "Cluster | None"

    def bad_device(self, error: object) -> typer.BadParameter:
        """Returns the error for a device that cannot be used."""
        option = "--gpus-per-run" if self.cluster else "--device"
        return typer.BadParameter(str(error), param_hint=f"'{option}'")


def _where(device: str, cluster: "Cluster | None") -> _Where:
    if cluster is not None:
        return _Where(cluster.device, clusters.GPUS[cluster.device], cluster)
    return _Where(device, [] if device == devices.CPU else devices.gpus(), None)


def _executor(
    settings: Settings, kind: str, where: _Where, jobs: int | None
) -> tuple[Executor, int]:
    """Returns the executor, and the number of runs that it does at once."""
    if where.cluster is not None:
        where.cluster.train(settings.framework, kind)
        return where.cluster, where.cluster.jobs
    places = devices.places(settings.device, where.gpus, jobs)
    return Local(settings.framework, settings.task, kind, places), len(places)


def _run(
    results: dict[str, Any],
    settings: Settings,
    output: Path,
    executor: Executor,
    jobs: int,
    console: Console,
) -> None:
    """Does the missing runs of a comparison, shows the results, and writes the report."""
    where = "" if settings.device == devices.CPU else f" on {results['machine']['device']}"
    console.print(
        f"{settings.task} with {settings.framework}{where}: {settings.steps} steps a run, "
        f"{jobs} run{'s' * (jobs > 1)} at a time"
    )
    to_resume = f"Continue with: {_to_resume(results['command'], output)}"
    try:
        with Display(console) as watch:
            results = runner.compare(results, settings, output, watch, executor)
    except StoppedError as stopped:
        console.print(f"Stopped: {stopped}")
        console.print(to_resume, soft_wrap=True)
        raise typer.Exit(1) from None
    analysis = analyse(results)
    shown = [tables.quality(analysis), tables.cost(analysis), tables.matrix(analysis)]
    if len(analysis.machines) > 1:
        shown.insert(2, tables.times(analysis))
    if any(one.name == RECOMMENDED for one in analysis.summaries):
        shown.append(tables.differences(analysis, RECOMMENDED))
    for table in shown:
        console.print()
        console.print(tables.terminal(table))
    console.print()
    for remark in remarks(analysis):
        console.print(remark)
    report.write(analysis, output)
    console.print(f"Report: {output / report.PAGE}")
    if results["status"] == "interrupted":
        console.print(to_resume, soft_wrap=True)
        raise typer.Exit(130)
    if any(row["status"] == "failed" for row in results["runs"]):
        raise typer.Exit(1)


def _to_resume(command: str, output: Path) -> str:
    """Returns the command that continues a comparison.

    Example:
        >>> _to_resume("novograd compare brain --quick", Path("found"))
        'novograd compare brain --quick --output found --resume'
    """
    words = shlex.split(command)
    words += [] if "--output" in words else ["--output", str(output)]
    return shlex.join([*words, "--resume"])


def _task(
    name: str,
    framework: str | None,
    where: _Where,
    optimizers: Mapping[str, Mapping[str, Any]],
    steps: int | None,
    console: Console,
) -> tuple[str, dict[str, Any], str]:
    """Finds out what is trained, and tries what is not built in.

    Returns:
        The framework, the description of the task, and the device.
    """
    if name in BUILT_IN:
        framework = framework or _installed(where.device)
        _resolved(where, framework)
        _require(framework, (*_needs(framework), *BUILT_IN[name]), name)
        task = name if optimizers else None
        event, chosen = _tried(task, framework, where, optimizers, steps, console)
        rates = {"default_rates": event.get("default_rates", {})}
        return framework, about(load(name)) | rates, chosen
    place, _ = parts(name)
    if is_file(place):
        if not Path(place).is_file():
            raise typer.BadParameter(f"there is no file {place}", param_hint="'task'")
    elif "." not in place and find_spec(place) is None:
        known(name, BUILT_IN)
    if framework:
        _resolved(where, framework)
        _require(framework, runner.FRAMEWORKS[framework].needs[:1], name)
    event, chosen = _tried(name, framework, where, optimizers, steps, console)
    del event["event"]
    if is_file(place):  # so that --resume refuses a changed file
        event["sha256"] = hashlib.sha256(Path(place).read_bytes()).hexdigest()
    return event.pop("framework"), event, chosen


def _tried(
    task: str | None,
    framework: str | None,
    where: _Where,
    optimizers: Mapping[str, Mapping[str, Any]],
    steps: int | None,
    console: Console,
) -> tuple[dict[str, Any], str]:
    """Tries a task with optimizers or, without one, a GPU.

    Returns:
        The event about the task, and the device. If ``device`` is ``auto`` and the framework cannot
        use the GPU, this is the CPU.
    """
    chosen = _resolved(where, framework)
    if task is None and chosen == devices.CPU:
        return {}, chosen
    with console.status(f"trying {task or chosen}"):
        place = devices.places(chosen, where.gpus)[0]
        describe = where.cluster.describe if where.cluster else runner.describe
        event = asyncio.run(describe(task, framework, place, optimizers, steps))
    if event.get("refused") == "--device":
        if where.device == devices.AUTO:
            on_cpu = replace(where, device=devices.CPU)
            return _tried(task, framework, on_cpu, optimizers, steps, console)
        raise where.bad_device(event["error"])
    if event["event"] == "result":
        console.print(event.get("traceback", ""), end="")
        console.print(
            f"{task or chosen} cannot be {'trained' if task else 'used'}: {event['error']}"
        )
        if chosen != devices.CPU and not where.cluster:
            console.print(f"This happened on {place}. With --device cpu it may work.")
        raise typer.Exit(1)
    return event, chosen


def _installed(device: str) -> str:
    """Returns the first framework that supports a device and whose packages are all installed."""
    able = [name for name in runner.FRAMEWORKS if devices.supports(name, device)]
    for name in able:
        if all(map(find_spec, _needs(name))):
            return name
    which = f" that supports --device {device}" if len(able) < len(runner.FRAMEWORKS) else ""
    raise typer.BadParameter(
        f'no framework{which} is installed: pip install "novograd-optimizer[{able[0]},keras]"',
        param_hint="'--framework'",
    )


def _resolved(where: _Where, framework: str | None) -> str:
    try:
        return devices.resolved(where.device, framework, where.gpus)
    except devices.DeviceError as error:
        raise where.bad_device(error) from None


def _needs(framework: str) -> tuple[str, ...]:
    """Returns the packages that every built-in task needs."""
    return (*runner.FRAMEWORKS[framework].needs, *runner.BUILT_IN_NEEDS)


def _require(framework: str, modules: Sequence[str], task: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        extras = [framework, "keras"] if {*missing} - {*BUILT_IN.get(task, ())} else []
        extras += ["tasks"] if {*missing} & {*BUILT_IN.get(task, ())} else []
        raise typer.BadParameter(
            f"{task} with {framework} needs {' and '.join(missing)}: "
            f'pip install "novograd-optimizer[{",".join(extras)}]"',
            param_hint="'--framework'",
        )


def _directory(output: Path | None, settings: Settings, resume: bool) -> Path:
    """Makes the output directory: ``output`` if given, or a new one, or to resume the latest."""
    if output is None:
        place, _ = parts(settings.task)
        stem = Path(place).stem if is_file(place) else place
        first = OUTPUT / f"{stem}-{settings.framework}"
        output, number = first, 1
        while (output / runner.RESULTS).exists():
            number += 1
            latest, output = output, first.with_name(f"{first.name}-{number}")
            if resume and not (output / runner.RESULTS).exists():
                output = latest
                break
    if resume and not (output / runner.RESULTS).exists():
        raise typer.BadParameter(
            f"there is no comparison in {output}; leave out --resume to begin one",
            param_hint="'--resume'",
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the directory {str(output)!r}: {error.strerror}", param_hint="'--output'"
        ) from None
    return output
