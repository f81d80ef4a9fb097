"""One training run, whatever the framework: the course of the learning rate, and the loop."""

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

WARMUP = 10  # steps
EVALUATIONS = 10  # times the test batches are looked at in a run, the end included
UPDATES = 20  # how often the optimizer's own time is taken


@dataclass(frozen=True)
class Trainer:
    """A model and an optimizer of it in some framework, on the CPU with one thread.

    Attributes:
        step: Takes a learning rate, inputs and targets, updates the weights, and returns the loss
            before.
        predict: Takes inputs and targets and returns their loss and the outputs.
        update: Updates the weights once more with some gradients and a learning rate of 0, so that
            the optimizer's own time can be taken.
        state_bytes: Measures what the optimizer stores, after at least one step.
        weight_bytes: The size of the weights.
        settings: The arguments of the optimizer, the learning rate excepted.
        versions: The versions of the packages at work.
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


# What the learning rate is multiplied by, of the part of the run that is over; poly is that of the
# published recipes of NovoGrad.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": cosine,
    "poly": lambda part: (1 - part) ** 2,
}


def schedule(name: str, step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: a linear rise over 10 steps, then one of ``SCHEDULES``.

    Args:
        name: One of ``SCHEDULES``.
        step: The step, from 1.
        steps: Number of steps of the run.
        peak: The highest learning rate.

    Returns:
        The learning rate; all but the constant would reach 0 in the step after the last.
    """
    if step <= WARMUP:
        return peak * step / WARMUP
    return peak * SCHEDULES[name]((step - WARMUP) / (steps + 1 - WARMUP))


def train(
    task: Task, trainer: Trainer, learning_rates: Iterator[float], seed: int, steps: int
) -> Iterator[dict[str, Any]]:
    """Trains on a task and tells how it goes.

    Args:
        task: What to train on.
        trainer: What to train.
        learning_rates: Of each step.
        seed: Seeds the batches.
        steps: Number of steps, at least 1.

    Yields:
        ``{"event": "step", "step", "loss"}`` after each step, steps counted from 1;
        ``{"event": "evaluation", "step", "test_loss", "metrics"}`` ten times (or after each step of
        a shorter run), the last step included;
        and last ``{"event": "result", "status", ...}``: the status is ``"finished"``, with what was
        measured, or ``"diverged"``, with ``"diverged_at"``, the step whose loss was not finite.

    Raises:
        ValueError: If there are fewer batches than steps, or no test batch.
    """
    test = list(task.test())
    if not test:
        raise ValueError("task.test() gave no batch; at least one is needed")
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
        raise ValueError(f"task.batches({seed}) ended after {step} batches; {steps} are needed")
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
    """Judges a model by test batches.

    Returns:
        ``"test_loss"``, the mean over the examples, and ``"metrics"``.
    """
    losses, outputs = zip(*(trainer.predict(*batch) for batch in test), strict=True)
    sizes = [len(output) for output in outputs]
    metrics = task.metric(*_joined(outputs, [targets for _, targets in test]))
    return {
        "test_loss": float(np.average(losses, weights=sizes)),
        "metrics": {name: float(value) for name, value in metrics.items()},
    }


def segmentation(task: Task, trainer: Trainer) -> Segmentation | None:
    """Returns the pictures of a task's test batches, if the task has any.

    Raises:
        ValueError: If they are not what ``Segmentation`` says.
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
            "task.segmentation must return images, truth and predicted of one shape (pictures, "
            f"height, width); got {', '.join(map(str, shapes))}"
        )
    return found


def _joined(*batches: Any) -> list[NDArray[Any]]:
    return [np.concatenate([np.asarray(one) for one in parts]) for parts in batches]


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
