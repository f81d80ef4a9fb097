"""Training of one layer with the oracle, for comparison in the tests of every framework."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from novograd import reference

HYPER: dict[str, Any] = {
    "learning_rate": 0.1,
    "beta1": 0.95,
    "beta2": 0.98,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "grad_averaging": False,
    "nesterov": False,
}


def trained(
    weights: ArrayLike, gradients: Iterable[ArrayLike], **hyper: float | Callable[[int], float]
) -> tuple[reference.Array, reference.Array, reference.Array]:
    """Runs a step for each gradient; returns weights, momentum buffer and second moment in float64.

    Args:
        weights: The initial weights.
        gradients: One gradient for each step.
        hyper: Hyperparameters that differ from ``HYPER``, or the scale of the layer. A function
            is called with the number of the step.
    """
    state: Any = (weights, np.zeros(np.shape(weights)), 0.0)
    for step, gradient in enumerate(gradients):
        now = {name: x(step) if callable(x) else x for name, x in (HYPER | hyper).items()}
        state = reference.step(*state, gradient, **now)
    return state
