"""Measures the installed frameworks one after the other, for ``novograd bench``."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from novograd import native
from novograd.conformance import verify
from novograd.processes import ProgramError, a_few_at_a_time, events
from novograd.progress import Watch
from novograd.results import machine, replace

SCHEMA = 1
FRAMEWORKS = {name: verify.FRAMEWORKS[name] for name in ("torch", "jax", "tensorflow")}
# JAX and TensorFlow would put their arrays on a GPU.
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


def installed() -> list[str]:
    """Returns the names of the installed frameworks."""
    return [name for name in verify.installed() if name in FRAMEWORKS]


def bench(names: Sequence[str], shapes: Sequence[str], rounds: int, watch: Watch) -> dict[str, Any]:
    """Measures frameworks one after the other, each in its own process.

    Args:
        names: Keys of ``FRAMEWORKS``.
        shapes: Keys of ``novograd.bench.shapes.SHAPES``.
        rounds: Measured rounds, after the warm-up.
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


async def _bench(name: str, shapes: Sequence[str], rounds: int, watch: Watch) -> dict[str, Any]:
    """Measures one framework."""
    framework = FRAMEWORKS[name]
    command = [sys.executable, "-m", "novograd.bench.worker", framework.module, str(rounds)]
    result: dict[str, Any] = {"results": {}, "left_out": {}}
    try:
        environment = {**framework.environment, **ON_CPU}
        async with aclosing(events([*command, *shapes], environment)) as told:
            async for event in told:
                if "about" in event:
                    result = {**event["about"], **result}
                elif "figures" in event:
                    result["results"][event["shapes"]] = event["figures"]
                    result["left_out"][event["shapes"]] = event["left_out"]
                watch(name, event)
    except ProgramError as error:
        result["error"] = str(error)
    return result


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes the result file."""
    replace(path, json.dumps(result, indent=1) + "\n")
