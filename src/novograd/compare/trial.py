"""Tries every part of a user's task once, before a comparison."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from novograd.compare import devices, kinds
from novograd.compare.errors import TaskError, summary
from novograd.compare.frameworks import require_device, trainer
from novograd.compare.load import default_rate, find_class
from novograd.compare.mistakes import checked, require_batches
from novograd.compare.optimizers import OPTIMIZERS, OWN, Optimizer, find
from novograd.compare.task import Batch, Task
from novograd.compare.training import evaluate, held_out, segmentation


class Found(NamedTuple):
    """What a trial finds out.

    Attributes:
        framework: The framework that trains the model.
        kind: The kind of the model, a key of ``novograd.compare.kinds.CLASSES``.
        default_rates: The default learning rates of the optimizers that are not ours, by name.
    """

    framework: str
    kind: str
    default_rates: dict[str, float]


def tried(
    task: Task,
    framework: str | None,
    device: str,
    steps: int,
    optimizers: Mapping[str, Mapping[str, Any]],
) -> Found:
    """Tries a task, and optimizers on it.

    Args:
        task: The task.
        framework: The framework, or None if the model determines it.
        device: The device of the runs.
        steps: Number of steps of a run.
        optimizers: The arguments, by name, of optimizers to try as well.

    Raises:
        TaskError: If there is a mistake in the task, or an optimizer does not work.
        DeviceError: If the framework cannot use the device.
    """
    if framework is not None:
        require_device(framework, device)  # without the device, the model might not even be built
    usual = checked(task)
    kind = _kind(usual, task, device)
    framework = framework or kinds.framework(kind)
    require_device(framework, device)
    if kind != "keras" and kinds.framework(kind) != framework:
        raise TaskError(f"the model is a {kinds.title(kind)}, which {framework} cannot train")
    require_batches(usual, steps)
    batch = next(iter(usual.batches(0)))
    _try_training(usual, framework, device, batch)
    rates = {
        name: _default_rate(usual, framework, chosen(name, arguments), batch, device)
        for name, arguments in optimizers.items()
    }
    known = {name: rate for name, rate in rates.items() if rate is not None}
    return Found(framework, kind, known)


def chosen(name: str, arguments: Mapping[str, Any]) -> Optimizer:
    """Returns an optimizer with arguments from JSON, which has lists in place of tuples.

    Example:
        >>> chosen("adamw", {"betas": [0.9, 0.98]}).arguments
        {'betas': (0.9, 0.98)}
    """
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
    return replace(find(name), arguments=given)


def _kind(usual: Task, task: Task, device: str) -> str:
    """Returns the kind of a task's model, which is built once."""
    try:
        return kinds.kind(usual.model(0), task.model)
    except Exception:
        keras = sys.modules.get("keras")
        if keras is not None and devices.supports(keras.backend.backend(), device):
            require_device(keras.backend.backend(), device)  # perhaps Keras found no such device
        raise


def _try_training(task: Task, framework: str, device: str, batch: Batch) -> None:
    """Trains without changing the weights, and evaluates one batch of each part of the data."""
    trained = trainer(task, framework, OPTIMIZERS["sgd"], 0, device)
    for when in ("before the first step", "after a step with the learning rate 0"):
        loss = trained.step(0.0, *batch)
        if not math.isfinite(loss):
            raise TaskError(f"task.loss must be finite {when}, got {loss}")
    for part in ("validation", "test") if task.validation else ("test",):
        evaluate(task, trained, held_out(task, part)[:1])
    segmentation(task, trained)


def _default_rate(
    task: Task, framework: str, optimizer: Optimizer, batch: Batch, device: str
) -> float | None:
    """Tries an optimizer, and returns the default learning rate of a user's own class."""
    try:
        trainer(task, framework, optimizer, 0, device).step(0.0, *batch)
    except Exception as error:
        what = f"the optimizer {optimizer.title} does not work: {summary(error)}"
        raise TaskError(what) from error
    return default_rate(find_class(optimizer.place)) if optimizer.kind == OWN else None
