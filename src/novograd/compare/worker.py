"""One run as a process of its own: ``python -m novograd.compare.worker SPEC_JSON``.

SPEC_JSON is a JSON object with the fields of ``novograd.compare.plan.Run`` (or with a null
``optimizer``, to try the task and describe it) and ``pictures``, the file to keep the pictures of a
segmentation in, or null. Each event (see ``novograd.compare.training.train``) becomes one line of
JSON on standard output, and nothing else does. The process must have begun in ``environment``.

An exception becomes a result event too, of status ``"failed"``, with ``error`` and ``traceback``,
which begins where the user's own code does.
"""

import importlib
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from novograd.compare.load import load
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.task import Task
from novograd.compare.training import Trainer, evaluate, schedule, segmentation, train

OURS = Path(__file__).parents[1]  # the package
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # By default TensorFlow uses oneDNN on some CPUs only; without it a step takes twice as long.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "KERAS_TORCH_DEVICE": "cpu",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",  # the same job everywhere
    "NPROC": "1",  # to XLA's thread pools, the number of processors
    "OMP_NUM_THREADS": "1",
}


def environment(framework: str | None) -> dict[str, str]:
    """Returns the variables that NumPy and frameworks read when they are imported.

    Args:
        framework: That of the run, or None if the model is to say it.

    Example:
        >>> environment("jax")["KERAS_BACKEND"]
        'jax'
    """
    return ENVIRONMENT | ({"KERAS_BACKEND": framework} if framework else {})


def main() -> None:
    """Does what the SPEC_JSON of the command line says."""
    run(json.loads(sys.argv[1]))


def run(spec: dict[str, Any]) -> None:
    """Does what a specification says, and ends the process."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no event
    try:
        for event in _events(spec):
            print(json.dumps(event, allow_nan=False), file=lines, flush=True)
    except BrokenPipeError:
        os._exit(1)  # the comparison this run belongs to is gone, and so is anyone to tell
    os._exit(0)  # spares the framework's own clean-up, a second of it


def _events(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        task = load(spec["task"])
        yield from _run(task, spec) if spec["optimizer"] else _describe(task, spec["framework"])
    except BrokenPipeError:
        raise
    except Exception as error:
        last = traceback.format_exception_only(error)[-1].strip()
        yield {
            "event": "result",
            "status": "failed",
            "error": last,
            "traceback": "".join(_users_part(error)),
        }


def _run(task: Task, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    trainer = _trainer(task, spec["framework"], spec["optimizer"], spec["seed"])
    steps = spec["steps"]
    rates = (
        schedule(spec["schedule"], step, steps, spec["learning_rate"])
        for step in range(1, steps + 1)
    )
    for event in train(task, trainer, rates, spec["seed"], steps):
        if event.get("status") == "finished" and spec["pictures"]:
            _keep_pictures(task, trainer, Path(spec["pictures"]))
        yield event


def _describe(task: Task, framework: str | None) -> Iterator[dict[str, Any]]:
    """Tries everything of a user's task once, and tells what it is."""
    kind = _framework(task.model(0))
    framework = framework or kind
    if kind == "torch" != framework and "keras" not in sys.modules:
        raise TypeError(f"the model is a torch.nn.Module, which {framework} cannot train")
    trainer = _trainer(task, framework, "sgd", 0)
    batch = next(iter(task.batches(0)), None)
    if batch is None:
        raise ValueError("task.batches(0) gave no batch")
    loss = trainer.step(0.0, *batch)
    if not math.isfinite(loss):
        raise ValueError(f"task.loss is {loss} before the first step; it must be finite")
    metrics = evaluate(task, trainer, list(task.test())[:1])["metrics"]
    if not metrics:
        raise ValueError("task.metric returned no number; the first compares optimizers")
    segmentation(task, trainer)
    yield {"event": "task", "framework": framework, **about(task)}


def about(task: Task) -> dict[str, Any]:
    """Returns what results say of a task."""
    names = ("title", "about", "higher_is_better", "margin", "steps", "learning_rates")
    return {name: getattr(task, name) for name in names}


def _framework(model: Any) -> str:
    """Returns the framework that trains a model."""
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(model, keras.Model):
        return keras.backend.backend()
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    raise TypeError(
        "task.model must return a torch.nn.Module or a keras.Model; got one of type "
        f"{type(model).__module__}.{type(model).__qualname__}"
    )


def _trainer(task: Task, framework: str, optimizer: str, seed: int) -> Trainer:
    module = importlib.import_module(f"novograd.compare.{framework}")
    return module.trainer(task, OPTIMIZERS[optimizer], seed)


def _keep_pictures(task: Task, trainer: Trainer, path: Path) -> None:
    found = segmentation(task, trainer)
    if found is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        with draft.open("wb") as file:
            np.savez_compressed(file, **found._asdict())
        draft.replace(path)


def _users_part(error: BaseException) -> list[str]:
    """Formats a traceback from where the user's own code begins, if it has any part in it."""
    frame = error.__traceback__
    while frame is not None and _is_ours(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return traceback.format_exception(type(error), error, frame or error.__traceback__)


def _is_ours(file: str) -> bool:
    return file.startswith("<frozen") or Path(file).is_relative_to(OURS)


if __name__ == "__main__":
    main()
