"""What the tests share: training on given gradients, with the transformation and by the oracle."""

import jax
import numpy as np
import optax

from novograd import reference


def train(optimizer, weights, gradients, jit=True):
    """Takes a step for each tree of gradients; returns the last weights and state."""

    def step(gradient, weights, state):
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    step = jax.jit(step) if jit else step
    state = optimizer.init(weights)
    for gradient in gradients:
        weights, state = step(gradient, weights, state)
    return weights, state


def oracle(weights, gradients, learning_rate=0.1, weight_decay=0.0, **changes):
    """Trains one leaf in float64; returns w, m and v. Schedules are functions of the step."""
    hyper = {
        "beta1": 0.95,
        "beta2": 0.98,
        "epsilon": 1e-8,
        "grad_averaging": False,
        "nesterov": False,
    }
    w, m, v = weights, np.zeros(np.shape(weights)), 0.0
    for step, gradient in enumerate(gradients):
        lr, decay = (x(step) if callable(x) else x for x in (learning_rate, weight_decay))
        w, m, v = reference.step(
            w, m, v, gradient, learning_rate=lr, weight_decay=decay, **hyper | changes
        )
    return w, m, v


def made_up(shapes, steps=6, dtype=np.float32):
    """Returns a tree of weights and, for each step, one of gradients, for a dict of shapes."""
    random = np.random.default_rng(0)

    def tree():
        return {k: random.standard_normal(shape).astype(dtype) for k, shape in shapes.items()}

    return tree(), [tree() for _ in range(steps)]


def assert_close(actual, expected, rtol=2e-6):
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=rtol, atol=rtol)
