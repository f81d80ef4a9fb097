"""Training with the JAX transformation on given gradients."""

import jax
import numpy as np
import optax


def train(optimizer, weights, gradients, jit=True):
    """Runs a step for each tree of gradients; returns the last weights and state."""

    def step(gradient, weights, state):
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    step = jax.jit(step) if jit else step
    state = optimizer.init(weights)
    for gradient in gradients:
        weights, state = step(gradient, weights, state)
    return weights, state


def made_up(shapes, steps=6, dtype=np.float32):
    """Returns random weights, and gradients for each step, as trees with the given shapes."""
    random = np.random.default_rng(0)

    def tree():
        return {k: random.standard_normal(shape).astype(dtype) for k, shape in shapes.items()}

    return tree(), [tree() for _ in range(steps)]


def assert_close(actual, expected, rtol=2e-6):
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=rtol, atol=rtol)
