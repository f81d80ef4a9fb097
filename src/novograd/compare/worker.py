"""Does one run in its own process: ``python -m novograd.compare.worker SPEC_JSON``.

SPEC_JSON is a JSON object with the fields of ``novograd.compare.plan.Run``, ``arguments``, the
arguments of the optimizer that were given, and ``pictures``, the file for the pictures of a
segmentation, or null. It may have ``environment``, more variables of this run. If ``optimizer`` is
null, the process tries the task once, with ``optimizers``, and describes it. If ``task`` is null
too, the process only tries the device. The process prints each event (see
``novograd.compare.training.train``) as one line of JSON on standard output, and nothing else. It
must be started with the variables of the function ``environment``.

An exception becomes a result event with the status ``"failed"`` and the values of
``novograd.compare.errors.explained``. If the device cannot be used, the event also has
``"refused": "--device"``.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from novograd.compare.devices import CPU, VISIBLE, DeviceError, kind, visible
from novograd.compare.errors import explained
from novograd.compare.frameworks import require_device, trainer
from novograd.compare.load import load
from novograd.compare.mistakes import checked
from novograd.compare.task import Task
from novograd.compare.training import Trainer, schedule, segmentation, train
from novograd.compare.trial import chosen, tried

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # By default, TensorFlow uses oneDNN only on some CPUs. A step takes twice as long without it.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "NPROC": "1",  # the number of processors for XLA's thread pools
    "OMP_NUM_THREADS": "1",
}
ON_CPU = {"JAX_PLATFORMS": "cpu", VISIBLE: ""}
ON_GPU = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several runs share the memory of the GPU
    # PyTorch then looks for GPUs without CUDA, which would not work in a later fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def environment(framework: str | None, device: str = CPU) -> dict[str, str]:
    """Returns the variables that NumPy and frameworks read when they are imported.

    Args:
        framework: The framework of the run, or None if the model determines it.
        device: The device of the run.

    Example:
        >>> environment("jax")["KERAS_BACKEND"]
        'jax'
    """
    given = ENVIRONMENT | (ON_CPU if device == CPU else ON_GPU)
    given |= {"KERAS_TORCH_DEVICE": kind(device)}
    return given | ({"KERAS_BACKEND": framework} if framework else {})


def main() -> None:
    """Does the run that SPEC_JSON on the command line describes."""
    run(json.loads(sys.argv[1]))


def run(spec: dict[str, Any]) -> None:
    """Does the run of a specification, and ends the process."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard error instead
    os.environ.update(spec.get("environment", {}))
    os.environ.update(visible(spec["device"], os.environ))
    try:
        for event in _events(spec):
            print(json.dumps(event, allow_nan=False), file=lines, flush=True)
    except BrokenPipeError:
        os._exit(1)  # the process of the comparison has ended
    os._exit(0)  # skips the framework's clean-up, which takes a second


def _events(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        if spec["task"] is None:
            require_device(spec["framework"], spec["device"])
            yield {"event": "device"}
            return
        task = load(spec["task"])
        yield from _run(task, spec) if spec["optimizer"] else _describe(task, spec)
    except GeneratorExit:
        raise
    except DeviceError as error:
        yield {"event": "result", "status": "failed", "error": str(error), "refused": "--device"}
    except BaseException as error:
        yield {"event": "result", "status": "failed", **explained(error)}


def _run(task: Task, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    task, optimizer = checked(task), chosen(spec["optimizer"], spec["arguments"])
    trained = trainer(task, spec["framework"], optimizer, spec["seed"], spec["device"])
    steps = spec["steps"]
    rates = (
        schedule(spec["schedule"], step, steps, spec["learning_rate"])
        for step in range(1, steps + 1)
    )
    for event in train(task, trained, rates, spec["seed"], steps, spec["part"]):
        if event.get("status") == "finished" and spec["pictures"]:
            _keep_pictures(task, trained, Path(spec["pictures"]))
        yield event


def _describe(task: Task, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    steps = spec["steps"] or task.steps
    found = tried(task, spec["framework"], spec["device"], steps, spec["optimizers"])
    yield {"event": "task", **found._asdict(), **about(task)}


def about(task: Task) -> dict[str, Any]:
    """Returns the description of a task for the results."""
    names = ("title", "about", "higher_is_better", "margin", "steps", "learning_rates")
    return {name: getattr(task, name) for name in names} | {
        "validated": task.validation is not None
    }


def _keep_pictures(task: Task, trained: Trainer, path: Path) -> None:
    found = segmentation(task, trained)
    if found is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        with draft.open("wb") as file:
            np.savez_compressed(file, **found._asdict())
        draft.replace(path)


if __name__ == "__main__":
    main()
