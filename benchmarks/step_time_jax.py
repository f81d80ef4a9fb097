"""The part of ``step_time.py`` that compares optimizers in JAX.

A step is ``update`` and ``optax.apply_updates`` in one compiled program, or our ``step``, to which
weights and state are given away. The gradients are not: JAX finds no result that could take their
memory.
"""

import statistics
import time
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from shapes import Shapes, resnet50
from timing import Figures, Step, bound, in_own_processes, measure, show, summary

from novograd.jax import novograd
from novograd.native import processors

WARM_UP, FIRST_CALLS = 4, 3
LR = 1e-3
BETAS: Any = {"b1": 0.95, "b2": 0.98}
REFERENCE, BOUND = "optax.adamw", "the bound"
RATIOS = {
    "ratio_to_adamw": REFERENCE,
    "ratio_to_optax_novograd": "optax.novograd",
    "ratio_to_bound": BOUND,
}
MODEL, SHAPES = "ResNet-50", resnet50()


def in_two(optimizer: Any) -> tuple[Any, Any]:
    """Returns an optimizer and its step of two parts, as of every transformation of optax."""

    def step(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


OURS = novograd(LR, **BETAS)
CANDIDATES: dict[str, tuple[Any, Any]] = {
    REFERENCE: in_two(optax.adamw(LR, **BETAS, weight_decay=0.0)),
    "optax.adamw again": in_two(optax.adamw(LR, **BETAS, weight_decay=0.0)),
    "optax.novograd": in_two(optax.novograd(LR, **BETAS)),
    "NovoGrad, step": (OURS, OURS.step),
    "NovoGrad": in_two(OURS),
    "NovoGrad, pure rule": in_two(novograd(LR, **BETAS, fused=False)),
}


class Training:
    """An optimizer with weights and state of its own."""

    def __init__(self, optimizer: Any, step: Any, gradients: Any):
        """Compiles nothing yet."""
        self._gradients = gradients
        self._params = jax.tree.map(jnp.copy, gradients)
        self._state = jax.block_until_ready(optimizer.init(self._params))
        self._step = jax.jit(step, donate_argnums=(0, 1))

    def step(self, _: int = 0) -> None:
        """Takes a step, and waits for it."""
        now = self._step(self._params, self._state, self._gradients)
        self._params, self._state = jax.block_until_ready(now)


def drawn(shapes: Shapes) -> list[jax.Array]:
    """Draws gradients."""
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal(shape, np.float32)) for shape in shapes]


def first_call(name: str) -> float:
    """Returns the seconds that tracing, compiling and taking the first step take."""
    training = Training(*CANDIDATES[name], drawn(SHAPES))
    start = time.perf_counter()
    training.step()
    return time.perf_counter() - start


def measured(rounds: int) -> dict[str, Any]:
    """Measures the steps and the first calls, and prints the table."""
    names = [name for name in CANDIDATES if not name.endswith("again")]
    calls = in_own_processes(first_call, names * FIRST_CALLS)
    gradients, size = drawn(SHAPES), sum(map(prod, SHAPES))
    steps = [Step(Training(*candidate, gradients).step) for candidate in CANDIDATES.values()]
    arrays = [jnp.ones(size) for _ in range(3)]
    steps.append(bound(arrays, lambda x: x.unsafe_buffer_pointer(), size, processors()))
    figures: Figures = summary(measure(steps, rounds, WARM_UP), [*CANDIDATES, BOUND], RATIOS)
    for i, name in enumerate(names):
        figures[name]["first_call_s"] = round(statistics.median(calls[i :: len(names)]), 3)
    show(f"{MODEL}, JAX", figures)
    return {
        "threads": processors(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "rounds": rounds,
        "results": {MODEL: figures},
    }
