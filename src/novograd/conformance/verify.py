"""Runs the conformance checks of the installed frameworks, for ``novograd verify``."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from typing import Any

from novograd.processes import ProgramError, a_few_at_a_time, events
from novograd.progress import Watch


@dataclass(frozen=True)
class Framework:
    """A framework to verify, in a process of its own.

    Attributes:
        title: The display name.
        module: The module of ``novograd.conformance`` that has its adapters.
        needs: The packages that must be installed.
        environment: Environment variables of the process.
    """

    title: str
    module: str
    needs: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def _keras(title: str, backend: str, **environment: str) -> Framework:
    return Framework(title, "keras", ("keras", backend), {"KERAS_BACKEND": backend, **environment})


FRAMEWORKS: Mapping[str, Framework] = {
    "numpy": Framework("NumPy", "numpy", ("numpy",)),
    "tensorflow": Framework(
        "TensorFlow", "tensorflow", ("tensorflow",), {"TF_CPP_MIN_LOG_LEVEL": "3"}
    ),
    "torch": Framework("PyTorch", "torch", ("torch",)),
    "jax": Framework("JAX", "jax", ("jax", "optax")),
    # PyTorch is the first backend of Keras because it is the fastest: the first runs the variants.
    "keras-torch": _keras("Keras on PyTorch", "torch"),
    "keras-tensorflow": _keras("Keras on TensorFlow", "tensorflow", TF_CPP_MIN_LOG_LEVEL="3"),
    "keras-jax": _keras("Keras on JAX", "jax", JAX_ENABLE_X64="1"),
}


@dataclass
class Row:
    """The outcome of one implementation for one dtype.

    Attributes:
        framework: A key of ``FRAMEWORKS``.
        version: The version of the framework.
        implementation: A key of ``ADAPTERS`` in the framework's module.
        dtype: The dtype of the weights.
        of: The number of cases with this dtype.
        cases: The number of these cases that were run.
        ulps: The largest error of the cases that pass, see ``check``.
        errors: The messages of the cases that fail.
    """

    framework: str
    version: str
    implementation: str
    dtype: str
    of: int = 0
    cases: int = 0
    ulps: float = 0.0
    errors: list[str] = field(default_factory=list)


def installed() -> list[str]:
    """Returns the names of the installed frameworks.

    Example:
        >>> "numpy" in installed()
        True
    """
    return [name for name, framework in FRAMEWORKS.items() if all(map(find_spec, framework.needs))]


def verify(names: Sequence[str], jobs: int, full: bool, watch: Watch) -> list[Row]:
    """Runs the checks of frameworks, several at a time.

    Args:
        names: Keys of ``FRAMEWORKS``.
        jobs: The number of processes to run at once.
        full: Whether to run all checks instead of those that ``novograd.conformance.choice``
            chooses. If it chooses and several frameworks have the same module, only the first of
            them runs the variants, because they share the code of the variants.
        watch: Called with the framework's name and each event of ``novograd.conformance.worker``.

    Returns:
        A row for each framework, implementation and dtype, in the order of ``names``. If a process
        dies, a row without an implementation has its error.
    """
    firsts = {FRAMEWORKS[name].module: name for name in reversed(names)}.values()

    async def one(name: str) -> list[Row]:
        return await _verify(name, {"full": full, "variants": name in firsts}, watch)

    found = asyncio.run(a_few_at_a_time(one, names, jobs))
    return [row for rows in found for row in rows]


async def _verify(name: str, options: Mapping[str, bool], watch: Watch) -> list[Row]:
    """Runs the checks of one framework."""
    framework = FRAMEWORKS[name]
    spec = {"module": framework.module, **options}
    command = [sys.executable, "-m", "novograd.conformance.worker", json.dumps(spec)]
    rows: dict[tuple[str, str], Row] = {}
    version = ""
    try:
        async with aclosing(events(command, framework.environment)) as told:
            async for event in told:
                if "version" in event:
                    version = event["version"]
                    rows = {
                        key: Row(name, version, *key, of=event["cases"][key[1]])
                        for key in product(event["implementations"], event["cases"])
                    }
                else:
                    _add(rows[event["implementation"], event["dtype"]], event)
                watch(name, event)
    except ProgramError as error:
        rows["", ""] = Row(name, version, "", "", errors=[str(error)])
    return [row for row in rows.values() if row.cases or row.errors]


def _add(row: Row, event: dict[str, Any]) -> None:
    """Adds the outcome of a case to its row."""
    row.cases += 1
    if "error" in event:
        row.errors.append(f"{event['case']}: {event['error']}")
    else:
        row.ulps = max(row.ulps, event["ulps"])
