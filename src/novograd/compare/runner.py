"""All runs of a comparison: a few at a time, each in its own process, results kept in a file."""

import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from novograd import __version__
from novograd.processes import ProgramError, a_few_at_a_time, events

# For each framework, a module of this package, the packages that must be installed.
FRAMEWORKS = {
    "tensorflow": ("tensorflow", "keras"),
    "torch": ("torch", "keras"),
    "jax": ("jax", "optax", "keras"),
}
STEPS = 160
# The best of each grid in benchmarks/results/brain_learning_rates.json, which is TensorFlow's.
LEARNING_RATES = {"novograd": 0.01, "adam": 0.01, "momentum": 0.3}


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        framework: The module of ``novograd.compare`` which does it.
        optimizer: One of that module's optimizers.
        learning_rate: The highest learning rate of the schedule.
        seed: Seeds everything random in the run.
        steps: Number of training steps.
    """

    framework: str
    optimizer: str
    learning_rate: float
    seed: int
    steps: int


Watch = Callable[[Run, dict[str, Any]], None]


def plan(framework: str, learning_rates: Mapping[str, float], seeds: int, steps: int) -> list[Run]:
    """Lists the runs of a comparison, seed by seed, so that an early end leaves a fair half.

    Args:
        framework: The framework of every run.
        learning_rates: The learning rate of each optimizer to compare.
        seeds: Number of runs of each optimizer; their seeds are 0, 1, and so on.
        steps: Number of training steps in a run.

    Returns:
        The runs.
    """
    return [
        Run(framework, optimizer, rate, seed, steps)
        for seed in range(seeds)
        for optimizer, rate in learning_rates.items()
    ]


def compare(runs: Sequence[Run], jobs: int, path: Path, watch: Watch) -> dict[str, Any]:
    """Does the runs and keeps their results.

    Ctrl-C stops the workers and ends the comparison with what was finished.

    Args:
        runs: What to run, no two equal.
        jobs: How many workers to run at once.
        path: The JSON file to keep the results in, written anew after every run that ends.
        watch: Called with the run and the event at each worker's events (those of
            ``novograd.compare.training.train``), at its ``{"event": "start"}``, and, if it dies
            without a result, with ``{"event": "result", "status": "failed", "error"}``.

    Returns:
        The content of the file: ``status`` is ``"finished"`` or ``"interrupted"``, and ``runs``
        has a row for each run that ended, in the order of ``runs``. A row holds the fields of
        ``Run``, ``loss`` (training loss of each step), ``evaluations`` (the events of that name),
        and what the result event said.
    """
    ended: dict[Run, dict[str, Any]] = {}

    def keep(status: str) -> dict[str, Any]:
        results = {
            "schema": 1,
            "task": "brain",
            "status": status,
            "planned": len(runs),
            "jobs": jobs,
            "novograd": __version__,
            "machine": {
                "python": platform.python_version(),
                "system": f"{platform.system()} {platform.machine()}",
                "cpus": os.cpu_count(),
            },
            "runs": [ended[run] for run in runs if run in ended],
        }
        _replace(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
        return results

    async def work(run: Run) -> None:
        ended[run] = await _run(run, watch)
        keep("running")

    try:
        asyncio.run(a_few_at_a_time(work, runs, jobs))
    except KeyboardInterrupt:
        return keep("interrupted")
    return keep("finished")


async def _run(run: Run, watch: Watch) -> dict[str, Any]:
    """Does one run in a worker process and returns its row."""
    row: dict[str, Any] = {**asdict(run), "loss": [], "evaluations": []}

    def record(event: dict[str, Any]) -> None:
        match event:
            case {"event": "step", "loss": loss}:
                row["loss"].append(loss)
            case {"event": "evaluation", **evaluation}:
                row["evaluations"].append(evaluation)
            case {"event": "result", **outcome}:
                row.update(outcome)
        watch(run, event)

    record({"event": "start"})
    command = [sys.executable, "-m", "novograd.compare.worker", json.dumps(asdict(run))]
    try:
        async with aclosing(events(command, {})) as told:
            async for event in told:
                record(event)
    except ProgramError as error:
        if "status" not in row:  # a result stands, however its worker ended after it
            record({"event": "result", "status": "failed", "error": str(error)})
    return row


def _replace(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, finds the old or the new one and no half."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
