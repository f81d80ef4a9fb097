"""One run in any framework: the schedules of the learning rate, and the training loop."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.plan import Part
from novograd.compare.task import Arrays, Batch, Segmentation, Task

WARMUP = 0.1  # the part of a run in which the learning rate rises
EVALUATIONS = 10  # evaluations on the test batches in a run, including one at the end
UPDATES = 20  # number of timed updates of the optimizer


@dataclass(frozen=True)
class Trainer:
    """A model and its optimizer in some framework, on the CPU with one thread or on a GPU.

    The functions return when the device has done their work.

    Attributes:
        step: Takes a learning rate, inputs and targets, updates the weights, and returns the loss
            before the update.
        predict: Takes inputs and targets and returns their loss and the outputs.
        update: Runs the optimizer alone, with any gradients and a learning rate of 0, to time it.
        state_bytes: Returns the size of the optimizer's state; call it after at least one step.
        weight_bytes: The size of the weights.
        settings: The arguments of the optimizer, except the learning rate.
        versions: The versions of the packages used.
    """

    step: Callable[[float, Arrays, Arrays], float]
    predict: Callable[[Arrays, Arrays], tuple[float, NDArray[Any]]]
    update: Callable[[], None]
    state_bytes: Callable[[], int]
    weight_bytes: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


def cosine(part: float) -> float:
    """Half a cosine wave, from 1 to 0."""
    return (1 + math.cos(math.pi * part)) / 2


# Factor of the learning rate, from the part of the run that is done, 0 to 1. The published recipes
# of NovoGrad use poly.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": cosine,
    "poly": lambda part: (1 - part) ** 2,
}


def schedule(name: str, step: int, steps: int, peak: float) -> float:
    """Returns the learning rate of a step: a linear rise over a tenth, then the schedule.

    Args:
        name: One of ``SCHEDULES``.
        step: The step, counted from 1.
        steps: Number of steps of the run.
        peak: The highest learning rate.

    Returns:
        The learning rate. All schedules except constant would reach 0 one step after the last.
    """
    rising = math.ceil(WARMUP * steps)
    if step <= rising:
        return peak * step / rising
    return peak * SCHEDULES[name]((step - rising) / (steps + 1 - rising))


def held_out(task: Task, part: Part) -> list[Batch]:
    """Returns the batches of a part of the data that is not for training.

    A task without validation batches uses its test batches for both parts.
    """
    use = task.validation if part == "validation" and task.validation else task.test
    return list(use())


def train(
    task: Task, trainer: Trainer, learning_rates: Iterator[float], seed: int, steps: int, part: Part
) -> Iterator[dict[str, Any]]:
    """Trains on a task and yields events.

    Args:
        task: The task.
        trainer: The model and its optimizer.
        learning_rates: The learning rate of each step.
        seed: Seed of the batches.
        steps: Number of steps, at least 1.
        part: The part of the data to evaluate on: ``"test"`` ten times (or after each step of a
            shorter run), ``"validation"`` only at the end.

    Yields:
        ``{"event": "step", "step", "loss"}`` after each step, steps counted from 1;
        ``{"event": "evaluation", "step", "held_out_loss", "metrics"}`` after each evaluation;
        finally ``{"event": "result", "status", ...}``: the status is ``"finished"``, with the
        measurements, or ``"diverged"``, with ``"diverged_at"``, the step whose loss was not finite.

    Raises:
        ValueError: If there are fewer batches than steps, or no batch to evaluate on.
    """
    evaluated = held_out(task, part)
    if not evaluated:
        raise ValueError(f"task.{part}() must return at least one batch, got none")
    count = EVALUATIONS if part == "test" else 1
    milestones = {round(steps * i / count) for i in range(1, count + 1)}
    seconds, found, step = [], {}, 0
    batches = itertools.islice(zip(learning_rates, task.batches(seed), strict=False), steps)
    for step, (rate, (inputs, targets)) in enumerate(batches, start=1):
        start = time.perf_counter()
        loss = trainer.step(rate, inputs, targets)
        seconds.append(time.perf_counter() - start)
        if step in milestones and math.isfinite(loss):
            found = evaluate(task, trainer, evaluated)
        if not math.isfinite(loss + found.get("held_out_loss", 0)):
            yield {"event": "result", "status": "diverged", "diverged_at": step}
            return
        yield {"event": "step", "step": step, "loss": loss}
        if step in milestones:
            yield {"event": "evaluation", "step": step, **found}
    if step < steps:
        raise ValueError(f"task.batches({seed}) must yield {steps} batches or more, got {step}")
    yield {
        "event": "result",
        "status": "finished",
        **found,
        "step_ms": 1000 * statistics.median(seconds),
        "state_bytes": trainer.state_bytes(),
        "weight_bytes": trainer.weight_bytes,
        "update_ms": 1000 * statistics.median(_seconds(trainer.update) for _ in range(UPDATES)),
        "settings": trainer.settings,
        "versions": trainer.versions,
    }


def evaluate(task: Task, trainer: Trainer, batches: Sequence[Batch]) -> dict[str, Any]:
    """Evaluates a model.

    Args:
        task: The task.
        trainer: The model.
        batches: The validation or the test batches.

    Returns:
        ``"held_out_loss"``, the mean over the examples, and ``"metrics"``. If the loss is not
        finite, there are no metrics.
    """
    losses, outputs = zip(*(trainer.predict(*batch) for batch in batches), strict=True)
    loss = float(np.average(losses, weights=[len(output) for output in outputs]))
    if not math.isfinite(loss):
        return {"held_out_loss": loss, "metrics": {}}
    metrics = task.metric(*_joined(outputs, [targets for _, targets in batches]))
    return {
        "held_out_loss": loss,
        "metrics": {name: float(value) for name, value in metrics.items()},
    }


def segmentation(task: Task, trainer: Trainer) -> Segmentation | None:
    """Returns the pictures of a task's test batches; None if the task makes none.

    Raises:
        ValueError: If the arrays do not have the shapes that ``Segmentation`` requires.
    """
    if task.segmentation is None:
        return None
    test = list(task.test())
    outputs = [trainer.predict(*batch)[1] for batch in test]
    inputs, targets = zip(*test, strict=True)
    found = task.segmentation(*_joined(inputs, outputs, targets))
    shapes = [np.shape(array) for array in found[:3]]
    if len({*shapes}) > 1 or len(shapes[0]) != 3:
        raise ValueError(
            "task.segmentation must return images, truth and predicted of the same shape "
            f"(pictures, height, width); got {', '.join(map(str, shapes))}"
        )
    return found


def _joined(*batches: Any) -> list[NDArray[Any]]:
    return [np.concatenate([np.asarray(one) for one in parts]) for parts in batches]


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
