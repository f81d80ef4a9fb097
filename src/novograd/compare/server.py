"""The server of a comparison: ``python -m novograd.compare.server FRAMEWORK TASK KIND``.

The server imports the modules that every run needs, and forks a process for each run. A request is
a SPEC_JSON of ``novograd.compare.worker``. Each run loads a user's own task itself.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
from typing import Any

from novograd.compare import worker
from novograd.compare.kinds import CLASSES
from novograd.compare.load import load
from novograd.compare.tasks import BUILT_IN
from novograd.forks import serve


def main() -> None:
    """Serves the runs with FRAMEWORK, TASK and KIND of the command line."""
    with contextlib.suppress(Exception):  # the runs will report the error
        preload(*sys.argv[1:])
    gc.freeze()  # a garbage collection in a run would copy the shared memory
    serve(worker.run if threads() == 1 else _run_in_new_interpreter)
    os._exit(0)  # skips the slow clean-up of the framework


def preload(framework: str, task: str, kind: str) -> None:
    """Imports packages and, for a built-in task, its modules and data.

    This must not start a thread, as an XLA client, TensorFlow's context or a thread pool would. It
    must not use a GPU: CUDA does not work in a fork of a process that has used it.

    Args:
        framework: A key of ``novograd.compare.runner.FRAMEWORKS``.
        task: The task's name on the command line.
        kind: The kind of the model, a key of ``novograd.compare.kinds.CLASSES``.
    """
    importlib.import_module(f"novograd.compare.{framework}")
    importlib.import_module(CLASSES[kind][0])
    if framework == "torch":
        importlib.import_module("torch._dynamo")  # needed by every optimizer of PyTorch
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)  # imports TensorFlow, if it is installed
    if task in BUILT_IN:
        for name in ("networks", "losses"):
            importlib.import_module(f"novograd.compare.keras.{name}")
        found = load(task)
        next(iter(found.batches(0)))
        list(found.test())


def threads() -> int:
    """Counts the threads of this process, including the threads of libraries."""
    return len(os.listdir("/proc/self/task"))


def _run_in_new_interpreter(spec: Any) -> None:
    """Does a run in a new Python interpreter.

    Some import has started a thread, for example another BLAS or a plugin of a framework. A forked
    process does not have this thread, and could wait for it forever.
    """
    command = [sys.executable, "-m", worker.__spec__.name, json.dumps(spec)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
