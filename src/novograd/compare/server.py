"""The server of a comparison: ``python -m novograd.compare.server FRAMEWORK TASK``.

It imports once what every run needs, and forks a run for each request, a SPEC_JSON of
``novograd.compare.worker``. A user's own task is loaded by the runs alone.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
from typing import Any

from novograd.compare import worker
from novograd.compare.load import load
from novograd.compare.tasks import BUILT_IN
from novograd.forks import serve


def main() -> None:
    """Serves runs of the command line's FRAMEWORK and TASK."""
    with contextlib.suppress(Exception):  # the runs will say what is wrong
        preload(*sys.argv[1:])
    gc.freeze()  # or a collection in a run would copy all that is shared
    serve(worker.run if threads() == 1 else _run_afresh)
    os._exit(0)  # spares the framework's own clean-up


def preload(framework: str, task: str) -> None:
    """Imports a framework, and what a task that is built in needs with its data.

    Nothing here may start a thread: that of an XLA client, of TensorFlow's context or of a pool.

    Args:
        framework: One of ``novograd.compare.runner.FRAMEWORKS``.
        task: What the command line calls it.
    """
    importlib.import_module(f"novograd.compare.{framework}")
    if task in BUILT_IN:
        for name in ("models", "networks", "losses"):
            importlib.import_module(f"novograd.compare.keras.{name}")
        found = load(task)
        next(iter(found.batches(0)))
        list(found.test())


def threads() -> int:
    """Counts the threads of this process, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


def _run_afresh(spec: Any) -> None:
    """Does a run without what was imported, for a fork loses threads, and may wait for them.

    Some import has started one: another BLAS, a plugin of a framework.
    """
    command = [sys.executable, "-m", worker.__spec__.name, json.dumps(spec)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
