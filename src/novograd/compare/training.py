"""One run in any framework: the schedules of the learning rate, and the training loop."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Arrays, Segmentation, Task

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


def train(
    task: Task, trainer: Trainer, learning_rates: Iterator[float], seed: int, steps: int
) -> Iterator[dict[str, Any]]:
    """Trains on a task and yields events.

    Args:
        task: The task.
        trainer: The model and its optimizer.
        learning_rates: The learning rate of each step.
        seed: Seed of the batches.
        steps: Number of steps, at least 1.

    Yields:
        ``{"event": "step", "step", "loss"}`` after each step, steps counted from 1;
        ``{"event": "evaluation", "step", "test_loss", "metrics"}`` ten times (or after each step of
        a shorter run), including the last step;
        finally ``{"event": "result", "status", ...}``: the status is ``"finished"``, with the
        measurements, or ``"diverged"``, with ``"diverged_at"``, the step whose loss was not finite.

    Raises:
        ValueError: If there are fewer batches than steps, or no test batch.
    """
    test = list(task.test())
    if not test:
        raise ValueError("task.test() must return at least one batch, got none")
    milestones = {round(steps * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)}
    seconds, found, step = [], {}, 0
    batches = itertools.islice(zip(learning_rates, task.batches(seed), strict=False), steps)
    for step, (rate, (inputs, targets)) in enumerate(batches, start=1):
        start = time.perf_counter()
        loss = trainer.step(rate, inputs, targets)
        seconds.append(time.perf_counter() - start)
        if step in milestones and math.isfinite(loss):
            found = evaluate(task, trainer, test)
        if not math.isfinite(loss + found.get("test_loss", 0)):
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


def evaluate(task: Task, trainer: Trainer, test: list[Any]) -> dict[str, Any]:
    """Evaluates a model on the test batches.

    Returns:
        ``"test_loss"``, the mean over the test examples, and ``"metrics"``.
    """
    losses, outputs = zip(*(trainer.predict(*batch) for batch in test), strict=True)
    sizes = [len(output) for output in outputs]
    metrics = task.metric(*_joined(outputs, [targets for _, targets in test]))
    return {
        "test_loss": float(np.average(losses, weights=sizes)),
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
