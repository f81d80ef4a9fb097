"""Does the runs of a comparison, a few at a time, and saves their results in a file."""

import asyncio
import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from novograd import __version__
from novograd.compare.devices import CPU, CPU_NAME
from novograd.compare.executors import Executor, Local, StoppedError, in_new_process, recorded
from novograd.compare.optimizers import find
from novograd.compare.plan import FIRST_JUDGE, Run, Settings, key, planned
from novograd.conformance import verify
from novograd.processes import ProgramError, on_free_places
from novograd.results import machine, replace

SCHEMA = 4
RESULTS, LOCK, PICTURES = "results.json", ".lock", "pictures"

Results = dict[str, Any]
Watch = Callable[[Run, dict[str, Any]], None]
PAUSE = 20  # how much longer than a save the time until the next save is


# The frameworks that can train a model.
FRAMEWORKS = {name: verify.FRAMEWORKS[name] for name in ("tensorflow", "torch", "jax")}
BUILT_IN_NEEDS = ("keras",)  # the built-in tasks need these packages with every framework


class InUseError(Exception):
    """Another process uses the output directory."""


class OtherComparisonError(Exception):
    """The output directory contains the results of another comparison."""


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Locks the output directory until the end of the block or of the process.

    Raises:
        InUseError: If another process has locked it.
    """
    try:
        with FileLock(output / LOCK, timeout=0):
            yield
    except Timeout:
        raise InUseError(f"another comparison is running in {output}") from None


def begin(
    settings: Settings, about: Mapping[str, Any], jobs: int, command: str, device: str = CPU_NAME
) -> Results:
    """Returns the results of a comparison before its first run.

    Args:
        settings: The settings of the comparison.
        about: The description of the task, see ``novograd.compare.worker.about``.
        jobs: The number of workers to run at once.
        command: The command line that repeats the comparison.
        device: The name of the device.
    """
    here = machine()
    fresh = {
        "schema": SCHEMA,
        "novograd": __version__,
        "command": command,
        "date": here["date"],
        "machine": {
            "python": here["python"],
            "system": f"{platform.system()} {platform.machine()}",
            "processor": here["processor"],
            "cpus": here["cores"],
            "device": device,
        },
        "jobs": jobs,
        "settings": asdict(settings),
        "task": about,
        "optimizers": {name: find(name).title for name in settings.learning_rates},
        "status": "running",
        "planned": len(planned(settings, [], higher_is_better=True)),
        "runs": [],
    }
    return json.loads(json.dumps(fresh))  # the same types as after reading the file


def resume(path: Path, fresh: Results) -> Results:
    """Reads the results of a comparison that was not finished.

    Args:
        path: The file.
        fresh: The value of ``begin`` for the same comparison.

    Returns:
        The content of the file.

    Raises:
        OtherComparisonError: If the file is from another comparison or another version.
    """
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        found = _identity(earlier)
    except (ValueError, KeyError, TypeError):
        raise OtherComparisonError(f"{path} does not contain results of a comparison") from None
    for name, value in _identity(fresh).items():
        if value != found[name]:
            raise OtherComparisonError(
                f"{path} is from another comparison: {_difference(name, found[name], value)}"
            )
    return earlier


def compare(
    results: Results,
    settings: Settings,
    output: Path,
    watch: Watch,
    executor: Executor | None = None,
) -> Results:
    """Does the missing runs and saves their results.

    Ctrl-C stops the runs. The comparison then ends with the finished runs.

    Args:
        results: The value of ``begin`` or ``resume``.
        settings: The settings of the comparison.
        output: The directory of ``results.json``, which is replaced when runs end, and of the
            pictures of the first judged run of each optimizer.
        watch: Called with a run and an event. The events of a run are those of the executor. If the
            run dies without a result, its last event is
            ``{"event": "result", "status": "failed", "error"}``. Each stage begins with
            ``{"event": "stage", "runs"}``, the missing runs of the stage; the run in this call is
            the first of them.
        executor: Does the runs, and is stopped at the end. None: ``jobs`` processes on the device
            of the settings.

    Returns:
        The content of the file, see ``docs/compare.md``.

    Raises:
        StoppedError: If the executor cannot go on. The finished runs are saved.
    """
    rows = {key(row): row for row in results["runs"]}
    higher_is_better = results["task"]["higher_is_better"]

    def plan() -> list[Run]:
        return planned(settings, list(rows.values()), higher_is_better)

    def keep(status: str, runs: Sequence[Run]) -> Results:
        ended = [rows[_key(run)] for run in runs if _key(run) in rows]
        kept = {**results, "status": status, "planned": len(runs), "runs": ended}
        replace(output / RESULTS, dump(kept))
        return kept

    async def stage(executor: Executor, runs: Sequence[Run], missing: Sequence[Run]) -> None:
        watch(missing[0], {"event": "stage", "runs": missing})
        changed = asyncio.Event()

        async def one(run: Run, device: str) -> None:
            rows[_key(run)] = await _run(executor, settings, run, device, output, watch)
            changed.set()

        async def save() -> None:
            while await changed.wait():
                changed.clear()
                start = time.perf_counter()
                keep("running", runs)
                # With many runs a save takes long, and must not take most of the time.
                await asyncio.sleep(PAUSE * (time.perf_counter() - start))

        async with asyncio.TaskGroup() as group:
            saving = group.create_task(save())
            await on_free_places(one, missing, executor.places(len(missing)))
            saving.cancel()

    async def stages(executor: Executor) -> None:
        runs = plan()
        while missing := [run for run in runs if _key(run) not in rows]:
            await stage(executor, runs, missing)
            runs = plan()

    try:
        with executor or _local(results, settings) as chosen:
            asyncio.run(stages(chosen))
    except KeyboardInterrupt:
        return keep("interrupted", plan())
    except ExceptionGroup as errors:
        if (stopped := errors.subgroup(StoppedError)) is None:
            raise
        keep("interrupted", plan())
        raise _first(stopped) from None
    return keep("finished", plan())


def picture_of(run: Mapping[str, Any]) -> str:
    """Returns the file name of a run's pictures.

    Example:
        >>> picture_of({"optimizer": "novograd:rows", "learning_rate": 0.003})
        'novograd-rows-0.003.npz'
    """
    return f"{re.sub('[^A-Za-z0-9_.]', '-', run['optimizer'])}-{run['learning_rate']:g}.npz"


async def describe(
    task: str | None,
    framework: str | None,
    device: str = CPU,
    optimizers: Mapping[str, Mapping[str, Any]] | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Tries a task once in a new process.

    Args:
        task: The task; None to try only the device.
        framework: The framework, or None if the model determines it.
        device: The device.
        optimizers: The arguments, by name, of optimizers to try as well.
        steps: Number of steps of a run; None for the task's own.

    Returns:
        The last event of ``novograd.compare.worker``: a description of the task, or a failure.
    """
    spec = {
        "task": task,
        "framework": framework,
        "optimizer": None,
        "optimizers": optimizers or {},
        "steps": steps,
        "device": device,
    }
    failure = "its process ended without a result"
    try:
        async with aclosing(in_new_process(spec)) as told:
            async for event in told:
                return event
    except ProgramError as error:
        failure = str(error)
    return {"event": "result", "status": "failed", "error": failure}


def _local(results: Results, settings: Settings) -> Local:
    kind = results["task"].get("kind", "keras")
    places = [settings.device] * results["jobs"]
    return Local(settings.framework, settings.task, kind, places)


async def _run(
    executor: Executor, settings: Settings, run: Run, device: str, output: Path, watch: Watch
) -> dict[str, Any]:
    """Does one run and returns its row."""
    fields = ("optimizer", "learning_rate", "seed", "part")
    row: dict[str, Any] = {name: getattr(run, name) for name in fields}
    given = settings.arguments.get(run.optimizer, {})
    spec = {**asdict(run), "device": device, "arguments": given, "pictures": None}
    if run.seed == FIRST_JUDGE:
        spec["pictures"] = str(output / PICTURES / picture_of(row))
    return row | await recorded(executor.events(spec), lambda event: watch(run, event))


def _key(run: Run) -> tuple[str, float, int]:
    return run.optimizer, run.learning_rate, run.seed


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    """Returns the first error of groups inside groups."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _identity(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of results that is the same in every process of a comparison."""
    same = {name: results[name] for name in ("schema", "novograd", "settings", "task")}
    return {**same, "machine": {"device": results["machine"].get("device")}}


def _difference(name: str, there: Any, here: Any) -> str:
    """Describes the first difference between two values."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if there.get(key) != here.get(key):
                return _difference(f"{name}.{key}", there.get(key), here.get(key))
    return f"{name} is {there!r} in the file and {here!r} now"


def dump(results: Results) -> str:
    """Returns results as JSON, with one line for each run."""
    head = json.dumps({**results, "runs": []}, indent=1, allow_nan=False)
    runs = ",\n  ".join(json.dumps(row, allow_nan=False) for row in results["runs"])
    assert head.endswith('"runs": []\n}')
    return head.removesuffix("[]\n}") + f"[\n  {runs}\n ]\n}}\n"
