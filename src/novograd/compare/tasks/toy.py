"""The task: two weights whose product is to be 1, with noise in their gradients.

The linear network of two layers from the NovoGrad paper (Ginsburg et al., 2019,
https://arxiv.org/abs/1905.11286): minimise ``(w1 w2 - 1)^2``. All points of the hyperbola
``w1 w2 = 1`` are equally good, but the farther from (1, 1) and (-1, -1) the steeper are the walls
of the valley. Where noise has carried an optimizer at the end says which minima it likes.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Task

NOISE = 0.5  # standard deviation of what is added to each gradient
START = (0.3, 2.5)  # on no minimum, and far from the flattest

Noise = NDArray[np.float32]  # shape (1, 2)


def noise(seed: int) -> Iterator[tuple[Noise, Noise]]:
    """Draws the noise of one step after the other; the model has no other input."""
    random = np.random.default_rng(seed)
    while True:
        drawn = NOISE * random.standard_normal((1, 2), dtype=np.float32)
        yield drawn, drawn


def where(weights: Noise, _: Noise) -> dict[str, float]:
    """Says where two weights are.

    Args:
        weights: Shape ``(1, 2)``.

    Returns:
        ``"distance"``: from the nearer of the flattest minima, (1, 1) and (-1, -1);
        ``"sharpness"``: the trace of the Hessian of the loss, ``2 w1^2 + 2 w2^2``, 4 at these two;
        ``"loss"``: ``(w1 w2 - 1)^2``; ``"w1"``; ``"w2"``.
    """
    first, second = map(float, weights[0])
    return {
        "distance": min(math.hypot(first - end, second - end) for end in (1, -1)),
        "sharpness": 2 * first**2 + 2 * second**2,
        "loss": (first * second - 1) ** 2,
        "w1": first,
        "w2": second,
    }


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import factors

    del seed  # all begin at the same place
    return factors(*START)


def _loss(weights: Any, drawn: Any) -> Any:
    from novograd.compare.keras.losses import factor_loss

    return factor_loss(weights, drawn)


TASK = Task(
    title="Find two weights whose product is 1, under noise",
    about=(
        "The two-layer linear network of the NovoGrad paper: all points with w1 w2 = 1 are minima, "
        "the flattest at (1, 1) and (-1, -1). The distance from these shows where each optimizer "
        "ends, not how well anything generalises: noise and a high learning rate alone drive most "
        "optimizers to flat minima."
    ),
    model=_model,
    batches=noise,
    test=lambda: [(np.zeros((1, 2), np.float32),) * 2],
    loss=_loss,
    metric=where,
    higher_is_better=False,
    margin=0.1,
    steps=1000,
)
