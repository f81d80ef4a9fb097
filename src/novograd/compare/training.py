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

from novograd.compare import brain

WARMUP = 10  # steps
EVALUATIONS = 5  # times the test slices are looked at in a run, the end included


@dataclass(frozen=True)
class Trainer:
    """The network and an optimizer in some framework, on the CPU with one thread.

    Attributes:
        step: Takes a learning rate and a batch, updates the weights, and returns the loss before.
        predict: Takes slices and returns their loss and their logits.
        state_bytes: Measures what the optimizer stores, after at least one step.
        weight_bytes: The size of the weights.
        settings: The arguments of the optimizer, the learning rate excepted.
        versions: The versions of the packages at work.
    """

    step: Callable[[float, brain.Slices], float]
    predict: Callable[[brain.Slices], tuple[float, NDArray[np.floating]]]
    state_bytes: Callable[[], int]
    weight_bytes: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: a linear rise over 10 steps, then half a cosine wave down.

    Args:
        step: The step, from 1.
        steps: Number of steps of the run.
        peak: The highest learning rate.

    Returns:
        The learning rate; it would reach 0 in the step after the last.
    """
    if step <= WARMUP:
        return peak * step / WARMUP
    return peak * (1 + math.cos(math.pi * (step - WARMUP) / (steps + 1 - WARMUP))) / 2


def train(
    trainer: Trainer, learning_rate: float, seed: int, steps: int
) -> Iterator[dict[str, Any]]:
    """Trains on the brain task and tells how it goes.

    Args:
        trainer: What to train.
        learning_rate: The highest learning rate of the schedule.
        seed: Seeds the damage to the training slices and the batches.
        steps: Number of steps, at least 1.

    Yields:
        ``{"event": "step", "step", "loss"}`` after each step, steps counted from 1;
        ``{"event": "evaluation", "step", "test_loss", "dice", "mean_dice"}`` five times (or after
        each step of a shorter run), the last step included;
        and last ``{"event": "result", "status", ...}``: the status is ``"finished"``, with what was
        measured, or ``"diverged"``, with ``"diverged_at"``, the step whose loss was not finite.
    """
    training, test = brain.load(seed)
    milestones = {round(steps * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)}
    seconds, found = [], {}
    batches = itertools.islice(brain.batches(training, seed), steps)
    for step, batch in enumerate(batches, start=1):
        start = time.perf_counter()
        loss = trainer.step(schedule(step, steps, learning_rate), batch)
        seconds.append(time.perf_counter() - start)
        if step in milestones:
            found = _evaluate(trainer, test)
        if not math.isfinite(loss + found.get("test_loss", 0)):
            yield {"event": "result", "status": "diverged", "diverged_at": step}
            return
        yield {"event": "step", "step": step, "loss": loss}
        if step in milestones:
            yield {"event": "evaluation", "step": step, **found}
    yield {
        "event": "result",
        "status": "finished",
        **found,
        "step_ms": 1000 * statistics.median(seconds),
        "state_bytes": trainer.state_bytes(),
        "weight_bytes": trainer.weight_bytes,
        "settings": trainer.settings,
        "versions": trainer.versions,
    }


def _evaluate(trainer: Trainer, test: brain.Slices) -> dict[str, Any]:
    """Measures the loss and the overlap on the test slices."""
    loss, logits = trainer.predict(test)
    scores = brain.dice(logits.argmax(axis=-1), test.labels)
    return {"test_loss": loss, "dice": scores, "mean_dice": statistics.mean(scores.values())}
