"""Names the mistakes in a user's task, before the first run and during the runs."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.errors import TaskError, described
from novograd.compare.task import Arrays, Batch, Segmentation, Task
from novograd.compare.training import Trainer

DRAWING = 2.0  # the longest time, in seconds, in which ``require_batches`` draws batches
_REQUIRED = ("model", "batches", "test", "loss", "metric")  # the functions of a task
_OPTIONAL = ("validation", "segmentation")


def checked(task: Task) -> Task:
    """Returns a task whose functions also check the values that the user's functions return.

    Raises:
        TaskError: If a part of the task has a wrong type. The functions of the result raise it too.
    """
    for name in (*_REQUIRED, *_OPTIONAL):
        value = getattr(task, name)
        if not callable(value) and not (name in _OPTIONAL and value is None):
            raise TaskError(f"task.{name} must be a function, got {described(value)}")
    if not isinstance(task.steps, int) or task.steps < 1:
        raise TaskError(f"task.steps must be an integer of at least 1, got {task.steps!r}")
    margin = task.margin
    if margin is not None and not (isinstance(margin, Real) and 0 < margin < float("inf")):
        raise TaskError(f"task.margin must be a positive number or None, got {margin!r}")
    validation, segmentation = task.validation, task.segmentation
    return replace(
        task,
        model=_model(task.model),
        batches=lambda seed: _pairs(f"task.batches({seed})", task.batches, task.batches(seed)),
        validation=validation and (lambda: _pairs("task.validation()", validation, validation())),
        test=lambda: _pairs("task.test()", task.test, task.test()),
        loss=_loss(task.loss),
        metric=_metric(task.metric),
        segmentation=segmentation and _segmentation(segmentation),
    )


def _model(build: Callable[[int], Any]) -> Callable[[int], Any]:
    earlier: Any = None

    def model(seed: int) -> Any:
        nonlocal earlier
        built = build(seed)
        if built is earlier and built is not None:
            raise TaskError(
                "task.model must build a new model in each call, got the same object again: its "
                "weights would not depend on the seed",
                build,
            )
        earlier = built
        return built

    return model


def _pairs(name: str, part: Callable[..., Any], found: Any) -> Iterator[Batch]:
    """Yields batches; ``name`` is the call of ``part`` that has returned them."""
    if not isinstance(found, Iterable):
        raise TaskError(f"{name} must return batches, got {described(found)}", part)
    number = 0
    for number, batch in enumerate(found, start=1):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TaskError(
                f"{name} must return batches, each a pair of inputs and targets, as in "
                f"[(inputs, targets)]; batch {number} is {described(batch)}",
                part,
            )
        lengths = [_lengths(f"batch {number} of {name}", part, arrays) for arrays in batch]
        if lengths[0].isdisjoint(lengths[1]):
            raise TaskError(
                f"the inputs and the targets of batch {number} of {name} must have the same "
                f"length, got {' and '.join(', '.join(map(str, one)) for one in lengths)}",
                part,
            )
        yield batch[0], batch[1]
    if number == 0:
        raise TaskError(f"{name} must return one batch or more, got none", part)


def _lengths(name: str, part: Callable[..., Any], arrays: Any) -> set[int]:
    """Returns the lengths of the arrays of a batch."""
    found = set()
    for one in _leaves(arrays):
        if not hasattr(one, "shape") or not len(one.shape):
            raise TaskError(
                f"{name} must contain arrays, or tuples of arrays, with an axis for the examples, "
                f"got {described(one)}",
                part,
            )
        found.add(int(one.shape[0]))
    return found


def _loss(compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def loss(outputs: Any, targets: Any) -> Any:
        if not hasattr(outputs, "shape"):
            raise TaskError(f"the output of the model must be a tensor, got {described(outputs)}")
        value = compute(outputs, targets)
        if isinstance(value, np.generic | np.ndarray) or not hasattr(value, "shape"):
            raise TaskError(
                f"task.loss must return a scalar tensor of the framework, got {described(value)}",
                compute,
            )
        if len(value.shape):
            raise TaskError(
                "task.loss must return a scalar tensor, such as the mean over the batch, got "
                f"{described(value)}",
                compute,
            )
        return value

    return loss


def _metric(compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Mapping[str, float]]:
    def metric(outputs: Any, targets: Any) -> Mapping[str, float]:
        wanted = "task.metric must return a dict of one or more finite numbers by name, got"
        values = compute(outputs, targets)
        if not isinstance(values, Mapping) or not values:
            raise TaskError(f"{wanted} {described(values)}", compute)
        for name, value in values.items():
            if not isinstance(name, str) or not _is_finite_number(value):
                raise TaskError(f"{wanted} {described(value)} for {name!r}", compute)
        return values

    return metric


def _segmentation(make: Callable[..., Any]) -> Callable[..., Segmentation]:
    def segmentation(*arrays: Any) -> Segmentation:
        found = make(*arrays)
        if not isinstance(found, Segmentation):
            raise TaskError(
                f"task.segmentation must return a Segmentation, got {described(found)}", make
            )
        return found

    return segmentation


def watched(trainer: Trainer) -> Trainer:
    """Returns a trainer that refuses NaN and infinity in a batch if the loss is not finite.

    A task may use NaN for missing values, if its loss leaves them out.
    """

    def step(learning_rate: float, inputs: Arrays, targets: Arrays) -> float:
        loss = trainer.step(learning_rate, inputs, targets)
        _explain(loss, "training", inputs, targets)
        return loss

    def predict(inputs: Arrays, targets: Arrays) -> tuple[float, NDArray[Any]]:
        loss, outputs = trainer.predict(inputs, targets)
        _explain(loss, "validation or test", inputs, targets)
        return loss, outputs

    return replace(trainer, step=step, predict=predict)


def _explain(loss: float, kind: str, inputs: Arrays, targets: Arrays) -> None:
    """Raises a TaskError if a loss is not finite because its batch is not finite."""
    if math.isfinite(loss):
        return
    for name, arrays in (("inputs", inputs), ("targets", targets)):
        for one in _leaves(arrays):
            if isinstance(one, np.ndarray) and not _is_finite(one):
                raise TaskError(
                    f"task.loss is {loss}, because the {name} of a {kind} batch contain NaN or "
                    "infinity"
                )


def require_batches(task: Task, steps: int) -> None:
    """Draws a training batch of a checked task for each step, but only for ``DRAWING`` seconds.

    Raises:
        TaskError: If there are fewer batches than steps.
    """
    end, count = time.monotonic() + DRAWING, 0
    for _ in itertools.islice(task.batches(0), steps):
        count += 1
        if time.monotonic() > end:
            return
    if count < steps:
        raise TaskError(
            f"task.batches(0) must yield {steps} batches or more, one for each step, got {count}"
        )


def _leaves(arrays: Any) -> Iterator[Any]:
    """Yields the arrays of inputs or targets."""
    if isinstance(arrays, tuple | list):
        for one in arrays:
            yield from _leaves(one)
    else:
        yield arrays


def _is_finite(array: NDArray[Any]) -> bool:
    return not np.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())


def _is_finite_number(value: Any) -> bool:
    is_number = isinstance(value, Real) or (hasattr(value, "shape") and not len(value.shape))
    return is_number and math.isfinite(value)
