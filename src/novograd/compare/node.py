"""Does runs on a node of a cluster. It does not know the cluster."""

import asyncio
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from novograd.compare.devices import CPU, CPU_NAME, VISIBLE, gpus
from novograd.compare.executors import Local, recorded
from novograd.results import machine

PYTHON = "Python"  # the name of its version
PICTURES = "pictures.npz"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of Python and of packages in this process.

    The part of a version that names a build, as in 2.6.0+cu126, is left out.

    Example:
        >>> versions(["no-such-package"])["no-such-package"]
        'not installed'
    """
    return {PYTHON: platform.python_version(), **{name: _version(name) for name in packages}}


def difference(here: Mapping[str, str], there: Mapping[str, str], node: str) -> str:
    """Describes how the versions of a node differ from those of this machine; "" if they do not.

    Example:
        >>> difference({"numpy": "2.0", "torch": "2.6"}, {"numpy": "1.0", "torch": "2.6"}, "node-7")
        'numpy is 2.0 here and 1.0 on node-7'
        >>> difference({"numpy": "2.0"}, {"numpy": "2.0"}, "node-7")
        ''
    """
    parts = [f"{x} is {here[x]} here and {there[x]} on {node}" for x in here if here[x] != there[x]]
    return "; ".join(parts)


def run(spec: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Does a run in its own process, like ``novograd compare`` on one machine.

    Args:
        spec: See ``novograd.compare.worker``. If it has a file for pictures, they are returned.
        kind: The kind of the model, a key of ``novograd.compare.kinds.CLASSES``.

    Returns:
        ``row``, see ``novograd.compare.executors.recorded``, with the ``machine``; and
        ``pictures``, the content of their file, or None.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PICTURES)
        given = {**spec, "pictures": str(path) if spec["pictures"] else None}
        if VISIBLE in os.environ:  # changes from run to run, unlike the variables of the server
            given["environment"] = {VISIBLE: os.environ[VISIBLE]}
        local = _local(spec["framework"], spec["task"], kind, spec["device"])
        row = asyncio.run(recorded(local.events(given), lambda _: None))
        pictures = path.read_bytes() if path.exists() else None
    return {"row": row | {"machine": _machine(spec["device"])}, "pictures": pictures}


@cache  # one for each process of the cluster on this node; it ends with the process
def _local(framework: str, task: str, kind: str, device: str) -> Local:
    return Local(framework, task, kind, [device])


@cache
def _machine(device: str) -> str:
    """Describes the hardware. Times on machines with equal descriptions can be compared."""
    about = machine()
    name = CPU_NAME if device == CPU else gpus()[0]
    return f"{about['processor']}, {about['cores']} CPUs, {name}"


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"
