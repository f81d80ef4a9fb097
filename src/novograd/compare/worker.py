"""Does one run in its own process: ``python -m novograd.compare.worker SPEC_JSON``.

SPEC_JSON is a JSON object with the fields of ``novograd.compare.plan.Run``, ``arguments``, the
arguments of the optimizer that were given, and ``pictures``, the file for the pictures of a
segmentation, or null. If ``optimizer`` is null, the process tries the
task once and describes it. If ``task`` is null too, the process only tries the device. The process
prints each event (see ``novograd.compare.training.train``) as one line of JSON on standard output,
and nothing else. It must be started with the variables of ``environment``.

An exception becomes a result event with the status ``"failed"``, ``error`` and ``traceback``. The
traceback begins at the user's own code. If the device cannot be used, the event also has
``"refused": "--device"``.
"""

import importlib
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from novograd.compare.devices import CPU, CPU_NAME, DeviceError, require, supports
from novograd.compare.load import default_rate, find_class, load
from novograd.compare.optimizers import OPTIMIZERS, OWN, Optimizer, find
from novograd.compare.task import Batch, Task
from novograd.compare.training import Trainer, evaluate, schedule, segmentation, train

PACKAGE = Path(__file__).parents[1]
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # By default, TensorFlow uses oneDNN only on some CPUs. A step takes twice as long without it.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "NPROC": "1",  # the number of processors for XLA's thread pools
    "OMP_NUM_THREADS": "1",
}
ON_CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
ON_GPU = {
    "JAX_PLATFORMS": "cuda,cpu",
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
    chosen = ENVIRONMENT | (ON_CPU if device == CPU else ON_GPU) | {"KERAS_TORCH_DEVICE": device}
    return chosen | ({"KERAS_BACKEND": framework} if framework else {})


def main() -> None:
    """Does the run that SPEC_JSON on the command line describes."""
    run(json.loads(sys.argv[1]))


def run(spec: dict[str, Any]) -> None:
    """Does the run of a specification, and ends the process."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard error instead
    try:
        for event in _events(spec):
            print(json.dumps(event, allow_nan=False), file=lines, flush=True)
    except BrokenPipeError:
        os._exit(1)  # the process of the comparison has ended
    os._exit(0)  # skips the framework's clean-up, which takes a second


def _events(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        if spec["task"] is None:
            yield {"event": "device", "device": _device_name(spec["framework"], spec["device"])}
            return
        task = load(spec["task"])
        yield from _run(task, spec) if spec["optimizer"] else _describe(task, spec)
    except BrokenPipeError:
        raise
    except DeviceError as error:
        yield {"event": "result", "status": "failed", "error": str(error), "refused": "--device"}
    except Exception as error:
        last = traceback.format_exception_only(error)[-1].strip()
        yield {
            "event": "result",
            "status": "failed",
            "error": last,
            "traceback": "".join(_from_user_code(error)),
        }


def _run(task: Task, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    optimizer = _chosen(spec["optimizer"], spec["arguments"])
    trainer = _trainer(task, spec["framework"], optimizer, spec["seed"], spec["device"])
    steps = spec["steps"]
    rates = (
        schedule(spec["schedule"], step, steps, spec["learning_rate"])
        for step in range(1, steps + 1)
    )
    for event in train(task, trainer, rates, spec["seed"], steps, spec["part"]):
        if event.get("status") == "finished" and spec["pictures"]:
            _keep_pictures(task, trainer, Path(spec["pictures"]))
        yield event


def _describe(task: Task, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tries every part of a user's task once, and describes the task and the device."""
    framework, device = spec["framework"], spec["device"]
    if framework is not None:
        _device_name(framework, device)  # without the device, the model might not even be built
    kind = _kind(task, device)
    framework = framework or kind
    named = _device_name(framework, device)
    if kind == "torch" != framework and "keras" not in sys.modules:
        raise TypeError(f"the model is a torch.nn.Module, which {framework} cannot train")
    trainer = _trainer(task, framework, OPTIMIZERS["sgd"], 0, device)
    batch = next(iter(task.batches(0)), None)
    if batch is None:
        raise ValueError("task.batches(0) gave no batch")
    loss = trainer.step(0.0, *batch)
    if not math.isfinite(loss):
        raise ValueError(f"task.loss must be finite before the first step, got {loss}")
    metrics = evaluate(task, trainer, list(task.test())[:1])["metrics"]
    if not metrics:
        raise ValueError("task.metric returned no number; the first number compares the optimizers")
    segmentation(task, trainer)
    rates = {
        name: _default_rate(task, framework, _chosen(name, arguments), batch, device)
        for name, arguments in spec["optimizers"].items()
    }
    yield {
        "event": "task",
        "framework": framework,
        "device": named,
        "default_rates": {name: rate for name, rate in rates.items() if rate is not None},
        **about(task),
    }


def _default_rate(
    task: Task, framework: str, optimizer: Optimizer, batch: Batch, device: str
) -> float | None:
    """Tries an optimizer, and returns the default learning rate of a user's own class."""
    try:
        _trainer(task, framework, optimizer, 0, device).step(0.0, *batch)
    except Exception as error:
        error.add_note(f"This happened with the optimizer {optimizer.title}.")
        raise
    return default_rate(find_class(optimizer.place)) if optimizer.kind == OWN else None


def about(task: Task) -> dict[str, Any]:
    """Returns the description of a task for the results."""
    names = ("title", "about", "higher_is_better", "margin", "steps", "learning_rates")
    return {name: getattr(task, name) for name in names} | {
        "validated": task.validation is not None
    }


def _kind(task: Task, device: str) -> str:
    """Returns the framework of a task's model, which is built once."""
    try:
        return _framework(task.model(0))
    except Exception:
        keras = sys.modules.get("keras")
        if keras is not None and supports(keras.backend.backend(), device):
            _device_name(keras.backend.backend(), device)  # perhaps Keras found no such device
        raise


def _device_name(framework: str, device: str) -> str:
    require(framework, device)
    if device == CPU:
        return CPU_NAME
    return importlib.import_module(f"novograd.compare.{framework}").gpu_name(device)


def _framework(model: Any) -> str:
    """Returns the framework that trains a model."""
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(model, keras.Model):
        return keras.backend.backend()
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    raise TypeError(
        "task.model must return a torch.nn.Module or a keras.Model, got an object of type "
        f"{type(model).__module__}.{type(model).__qualname__}"
    )


def _chosen(name: str, arguments: Mapping[str, Any]) -> Optimizer:
    """Returns an optimizer with arguments from JSON, which has lists in place of tuples."""
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
    return replace(find(name), arguments=given)


def _trainer(task: Task, framework: str, optimizer: Optimizer, seed: int, device: str) -> Trainer:
    module = importlib.import_module(f"novograd.compare.{framework}")
    return module.trainer(task, optimizer, seed, device)


def _keep_pictures(task: Task, trainer: Trainer, path: Path) -> None:
    found = segmentation(task, trainer)
    if found is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        with draft.open("wb") as file:
            np.savez_compressed(file, **found._asdict())
        draft.replace(path)


def _from_user_code(error: BaseException) -> list[str]:
    """Formats a traceback from the first line of the user's own code, if it contains such code."""
    frame = error.__traceback__
    while frame is not None and _in_package(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return traceback.format_exception(type(error), error, frame or error.__traceback__)


def _in_package(file: str) -> bool:
    return file.startswith("<frozen") or Path(file).is_relative_to(PACKAGE)


if __name__ == "__main__":
    main()
