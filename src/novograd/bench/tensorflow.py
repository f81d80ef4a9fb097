"""TensorFlow: its own optimizers, a straightforward NovoGrad, and ours.

Each step computes new gradients, as training does: it multiplies stored numbers by a scalar that
changes. That multiplication is part of the measured time.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from novograd import rule
from novograd.bench.shapes import Shapes
from novograd.bench.timing import BOUND, BOUND_BYTES, MakeStep, TimedStep, bound
from novograd.native import processors
from novograd.tensorflow import NovoGrad
from novograd.variants import DOCUMENTED

tf1 = tf.compat.v1

# TensorFlow's executor needs about a hundred runs to learn which operations are cheap enough to run
# without a separate thread.
WARM_UP = 100
REFERENCE, AGAIN = "MomentumOptimizer", "MomentumOptimizer again"
REMARKS = (
    "In TensorFlow each time, except the lower bound's, includes making the gradients: 8 bytes a "
    "weight.",
)
# The functions that the rule takes of an array library. tf.experimental.numpy has slower ones.
_XP = SimpleNamespace(where=tf.where, isfinite=tf.math.is_finite)
LEARNING_RATE, BETA1 = 1e-3, 0.95
VERSIONS = {"tensorflow": tf.__version__}


class PlainNovoGrad(tf1.train.MomentumOptimizer):
    """The rule in TensorFlow's ordinary operations, written in the most direct way."""

    def __init__(self, weight_decay: float = 0.0):
        """Accepts a weight decay; 0 means none."""
        super().__init__(LEARNING_RATE, BETA1)
        self._weight_decay = weight_decay

    def _create_slots(self, var_list: Any) -> None:
        super()._create_slots(var_list)
        for var in var_list:
            self._get_or_make_slot(var, tf.zeros([]), "v", self._name + "_v")

    def _resource_apply_dense(self, grad: Any, var: Any) -> Any:
        m, v = self.get_slot(var, "momentum"), self.get_slot(var, "v")
        s = tf.reduce_sum(tf.square(grad))
        numbers = rule.numbers(
            DOCUMENTED,
            lr=LEARNING_RATE,
            beta1=BETA1,
            beta2=DOCUMENTED.beta2,
            epsilon=DOCUMENTED.eps,
            weight_decay=self._weight_decay,
            grad_averaging=False,
        )
        new, _, scalars = rule.advance(s, v, numbers, xp=_XP)
        step = scalars.a * grad
        if self._weight_decay:
            step += scalars.b * var
        moment = m.assign(BETA1 * m + step)
        return tf.group(var.assign_sub(moment), v.assign(new))


Make = Callable[[], Any]

MOMENTUM: Make = partial(tf1.train.MomentumOptimizer, LEARNING_RATE, BETA1)
ADAM: Make = partial(tf1.train.AdamOptimizer, LEARNING_RATE)
CANDIDATES: dict[str, Make] = {
    REFERENCE: MOMENTUM,
    AGAIN: MOMENTUM,
    "AdamOptimizer": ADAM,
    "NovoGrad": partial(NovoGrad, LEARNING_RATE),
    "NovoGrad, plain operations": PlainNovoGrad,
}
# Bytes that each step moves for a float32 weight, if no cache helps; the gradient exists already.
BYTES = {
    REFERENCE: 20,
    AGAIN: 20,
    "AdamOptimizer": 28,
    "NovoGrad": 32,
    "NovoGrad, plain operations": 68,
    BOUND: BOUND_BYTES,
}


def variables(shapes: Shapes) -> list[Any]:
    """Makes variables of small random numbers, without storing them in the graph."""
    return [
        tf1.Variable(
            lambda shape=shape: tf.random.stateless_normal(shape, (0, 1)) * 0.05, use_resource=True
        )
        for shape in shapes
    ]


def factor(number: int) -> float:
    """Returns the factor of the stored numbers that makes the gradients of a round."""
    return 1.0 + 1e-3 * number


def function_step(shapes: Shapes, sources: list[Any], make: Make) -> TimedStep:
    """Returns the step of an optimizer with its own weights, as a call of a tf.function.

    Args:
        shapes: The shapes of the weights.
        sources: Variables of these shapes, from which the gradients are made.
        make: Makes the optimizer.
    """
    weights, optimizer = variables(shapes), make()

    @tf.function
    def step(by: Any) -> Any:
        gradients = [source * by for source in sources]
        optimizer.apply_gradients(list(zip(gradients, weights, strict=True)))
        return by  # a result to wait for

    return TimedStep(lambda number: step(tf.constant(factor(number))).numpy())


def threads() -> int:
    """Returns the number of threads of a step."""
    return tf.config.threading.get_intra_op_parallelism_threads() or processors()


def steps(shapes: Shapes) -> tuple[dict[str, MakeStep], dict[str, str]]:
    """Returns a function for each optimizer that makes its step.

    Args:
        shapes: The shapes of the weights.

    Returns:
        The functions by name, and for each optimizer that is left out, the reason.
    """
    size = sum(map(prod, shapes))
    sources = variables(shapes)
    makers: dict[str, MakeStep] = {
        name: partial(function_step, shapes, sources, make) for name, make in CANDIDATES.items()
    }
    ones = partial(np.ones, dtype=np.float32)
    return makers | bound(ones, lambda x: x.ctypes.data, size, threads()), {}
