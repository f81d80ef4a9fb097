"""The task: two weights whose product is to be 1, with noise in what it is compared with.

The linear network of two layers from the NovoGrad paper (Ginsburg et al., 2019,
https://arxiv.org/abs/1905.11286): minimise ``(w1 w2 - 1)^2``. All points of the hyperbola
``w1 w2 = 1`` are equally good, but the farther from (1, 1) and (-1, -1) the steeper are the walls
of the valley. Noise in the targets is noise in the gradients, and where it has carried an optimizer
at the end says which minima that likes.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Task

NOISE = 0.5  # standard deviation of what is added to the target
START = (0.3, 2.5)  # on no minimum, and far from the flattest

Column = NDArray[np.float32]  # shape (1, 1)


def targets(seed: int) -> Iterator[tuple[Column, Column]]:
    """Draws the target of one step after the other, beside the input, which is 1."""
    random = np.random.default_rng(seed)
    while True:
        noise = NOISE * random.standard_normal((1, 1), dtype=np.float32)
        yield np.ones_like(noise), 1 + noise


def where(weights: NDArray[np.float32], _: Column) -> dict[str, float]:
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


def _loss(weights: Any, target: Any) -> Any:
    from novograd.compare.keras.losses import product_loss

    return product_loss(weights, target)


TASK = Task(
    title="Find two weights whose product is 1, under noise",
    about=(
        "The two-layer linear network of the NovoGrad paper: all points with w1 w2 = 1 are minima, "
        "the flattest at (1, 1) and (-1, -1), and targets with noise drive an optimizer towards "
        "these, the sooner the higher its learning rate. It shows how far each gets from a steep "
        "minimum, not how well anything generalises."
    ),
    model=_model,
    batches=targets,
    test=lambda: [(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))],
    loss=_loss,
    metric=where,
    higher_is_better=False,
    margin=0.1,
    steps=1000,
)
