"""Measures the installed frameworks one after the other, for ``novograd bench``."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from novograd import native
from novograd.bench.timing import BOUND, Figures, summary
from novograd.conformance import verify
from novograd.processes import ProgramError, a_few_at_a_time, events
from novograd.progress import Watch
from novograd.results import machine, replace

SCHEMA = 1
FRAMEWORKS = {name: verify.FRAMEWORKS[name] for name in ("torch", "jax", "tensorflow")}
# JAX and TensorFlow would put their arrays on a GPU.
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
# Where the system puts the arrays of a process has an influence on the speed of a step.
PROCESSES = 3


def installed() -> list[str]:
    """Returns the names of the installed frameworks."""
    return [name for name in verify.installed() if name in FRAMEWORKS]


def bench(names: Sequence[str], shapes: Sequence[str], rounds: int, watch: Watch) -> dict[str, Any]:
    """Measures frameworks one after the other, each model in new processes.

    Args:
        names: Keys of ``FRAMEWORKS``.
        shapes: Keys of ``novograd.bench.shapes.SHAPES``.
        rounds: Measured rounds, after the warm-up, in all processes together.
        watch: Called with the framework's name and each event of ``novograd.bench.worker``.

    Returns:
        The content of the result file. If a worker dies, its framework has an ``error`` and the
        figures that the worker had reported until then.
    """

    async def one(name: str) -> dict[str, Any]:
        return await _bench(name, shapes, rounds, watch)

    found = asyncio.run(a_few_at_a_time(one, names, jobs=1))
    frameworks = dict(zip(names, found, strict=True))
    kernels = native.kernels and native.kernels.instruction_set()
    about = {"schema": SCHEMA, **machine(), "instruction_set": kernels}
    return {**about, "rounds": rounds, "frameworks": frameworks}


# The seconds of an optimizer, and of the reference and the bound in the same rounds.
Seconds = dict[str, list[float]]


async def _bench(name: str, shapes: Sequence[str], rounds: int, watch: Watch) -> dict[str, Any]:
    """Measures one framework."""
    framework = FRAMEWORKS[name]
    command = [sys.executable, "-m", "novograd.bench.worker", framework.module]
    environment = {**framework.environment, **ON_CPU}
    parts = _parts(rounds)
    first: dict[str, Any] = {}
    left_out: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[str, Seconds]] = {}
    error = {}
    try:
        for part, one in product(parts, shapes):
            async with aclosing(events([*command, str(part), one], environment)) as told:
                async for event in told:
                    if "about" in event:
                        left_out[one] = event["left_out"]
                        if not first:
                            first = event
                            turns = rounds + len(parts) * event["warm_up"]
                            watch(name, {"total": len(shapes) * event["optimizers"] * turns})
                    elif "measured" in event:
                        times = seconds.setdefault(one, {}).setdefault(event["measured"], {})
                        for optimizer, more in event["seconds"].items():
                            times.setdefault(optimizer, []).extend(more)
                    watch(name, event)
    except ProgramError as problem:
        error = {"error": str(problem)}
    results = {
        one: _figures(measured, first["about"]["reference"], first["bytes_per_weight"])
        for one, measured in seconds.items()
    }
    return {**first.get("about", {}), "results": results, "left_out": left_out, **error}


def _parts(rounds: int) -> list[int]:
    """Divides the rounds among the processes."""
    processes = min(PROCESSES, rounds)
    return [rounds // processes + (i < rounds % processes) for i in range(processes)]


def _figures(
    seconds: Mapping[str, Seconds], reference: str, bytes_per_weight: Mapping[str, int]
) -> Figures:
    """Returns the figures of each optimizer."""
    ratios = {"ratio_to_reference": reference, "ratio_to_bound": BOUND}
    beside: Seconds = {}
    figures: Figures = {}
    for name, times in seconds.items():
        figures[name] = summary(np.transpose(list(times.values())), times, ratios)[name]
        for other in times.keys() - {name}:
            beside.setdefault(other, []).extend(times[other])
    ends = summary(np.transpose(list(beside.values())), beside, ratios)
    # The reference is the first row of a table, the bound the last.
    figures = {reference: ends.pop(reference), **figures, **ends}
    for name in figures.keys() & bytes_per_weight.keys():
        figures[name]["bytes_per_weight"] = bytes_per_weight[name]
    return figures


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes the result file."""
    replace(path, json.dumps(result, indent=1) + "\n")
