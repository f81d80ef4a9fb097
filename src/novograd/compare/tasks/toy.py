"""The task: find two weights whose product is 1, with noise in the targets.

This is the two-layer linear network of the NovoGrad paper (Ginsburg et al., 2019,
https://arxiv.org/abs/1905.11286): minimise ``(w1 w2 - 1)^2``. All points of the hyperbola
``w1 w2 = 1`` are equally good, but the valley is steeper at points farther from (1, 1) and
(-1, -1). Noise in the targets causes noise in the gradients, which moves the weights along the
valley. The weights at the end show which minima an optimizer prefers.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Task

NOISE = 0.5  # standard deviation of the noise in the target
START = (0.3, 2.5)  # not a minimum, and far from the flattest minima

Column = NDArray[np.float32]  # shape (1, 1)


def targets(seed: int) -> Iterator[tuple[Column, Column]]:
    """Yields the input of each step, which is 1, and its noisy target."""
    random = np.random.default_rng(seed)
    while True:
        noise = NOISE * random.standard_normal((1, 1), dtype=np.float32)
        yield np.ones_like(noise), 1 + noise


def where(weights: NDArray[np.float32], _: Column) -> dict[str, float]:
    """Measures the position of two weights.

    Args:
        weights: Shape ``(1, 2)``.

    Returns:
        ``"distance"``: the distance to the nearer flattest minimum, (1, 1) or (-1, -1);
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


def judged() -> list[tuple[Column, Column]]:
    """Returns one batch; its content does not matter, because the metric sees only the weights."""
    return [(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))]


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import factors

    del seed  # all runs start at the same point
    return factors(*START)


def _loss(weights: Any, target: Any) -> Any:
    from novograd.compare.keras.losses import product_loss

    return product_loss(weights, target)


TASK = Task(
    title="Find two weights whose product is 1, under noise",
    about=(
        "The two-layer linear network of the NovoGrad paper. All points with w1 w2 = 1 are minima; "
        "the flattest are (1, 1) and (-1, -1). Noise in the targets drives an optimizer towards "
        "these two, faster with a higher learning rate. The task shows how far each optimizer gets "
        "from a steep minimum, not how well a model generalises."
    ),
    model=_model,
    batches=targets,
    # The metric measures the weights, so no data can be held out; the two parts may be equal.
    validation=judged,
    test=judged,
    loss=_loss,
    metric=where,
    higher_is_better=False,
    margin=0.1,
    steps=1000,
)
