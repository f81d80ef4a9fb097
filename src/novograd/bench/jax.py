"""JAX: optax's optimizers and ours.

A step is ``update`` and ``optax.apply_updates`` in one compiled program, or our ``step``. The
weights and the state are donated. The gradients are not: no result could reuse their memory.
"""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from novograd.bench.shapes import Shapes
from novograd.bench.timing import BOUND, BOUND_BYTES, MakeStep, TimedStep, bound
from novograd.jax import novograd
from novograd.native import processors

WARM_UP = 4
REFERENCE, AGAIN = "optax.novograd", "optax.novograd again"
REMARKS = (
    "`NovoGrad, step` updates the weights in place; the others are `update` and "
    "`optax.apply_updates` in one compiled program.",
)
LR = 1e-3
BETAS: Any = {"b1": 0.95, "b2": 0.98}
BYTES = {BOUND: BOUND_BYTES}  # for the others, XLA decides how many bytes they move
VERSIONS = {"jax": jax.__version__, "optax": optax.__version__}


def in_two(optimizer: Any) -> tuple[Any, Any]:
    """Returns an optimizer and its step: ``update``, then ``optax.apply_updates``."""

    def step(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


OURS, ROWS = novograd(LR, **BETAS), novograd(LR, variant="rows")
INT8 = novograd(LR, **BETAS, mu_dtype=jnp.int8)
CANDIDATES: dict[str, tuple[Any, Any]] = {
    REFERENCE: in_two(optax.novograd(LR, **BETAS)),
    AGAIN: in_two(optax.novograd(LR, **BETAS)),
    "optax.adamw": in_two(optax.adamw(LR, **BETAS, weight_decay=0.0)),
    "NovoGrad, step": (OURS, OURS.step),
    "NovoGrad, int8, step": (INT8, INT8.step),
    "NovoGrad, rows, step": (ROWS, ROWS.step),
    "NovoGrad": in_two(OURS),
    "NovoGrad, pure rule": in_two(novograd(LR, **BETAS, fused=False)),
}


class Training:
    """An optimizer with its own weights and state."""

    def __init__(self, optimizer: Any, step: Any, gradients: Any):
        """Makes weights and state; the first step compiles."""
        self._gradients = gradients
        self._params = jax.tree.map(jnp.copy, gradients)
        self._state = jax.block_until_ready(optimizer.init(self._params))
        self._step = jax.jit(step, donate_argnums=(0, 1))

    def step(self, _: int = 0) -> None:
        """Takes a step, and waits for its result."""
        now = self._step(self._params, self._state, self._gradients)
        self._params, self._state = jax.block_until_ready(now)


def training_step(candidate: tuple[Any, Any], gradients: Any) -> TimedStep:
    """Returns the step of an optimizer with its own weights."""
    return TimedStep(Training(*candidate, gradients).step)


def drawn(shapes: Shapes) -> list[jax.Array]:
    """Draws random gradients."""
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal(shape, np.float32)) for shape in shapes]


def threads() -> int:
    """Returns the number of threads of a step."""
    return processors()


def steps(shapes: Shapes) -> tuple[dict[str, MakeStep], dict[str, str]]:
    """Returns a function for each optimizer that makes its step.

    Args:
        shapes: The shapes of the weights.

    Returns:
        The functions by name, and for each optimizer that is left out, the reason.
    """
    gradients, size = drawn(shapes), sum(map(prod, shapes))
    makers: dict[str, MakeStep] = {
        name: partial(training_step, one, gradients) for name, one in CANDIDATES.items()
    }
    return makers | bound(jnp.ones, lambda x: x.unsafe_buffer_pointer(), size, threads()), {}
