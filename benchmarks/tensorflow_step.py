"""How long one optimizer step takes in TensorFlow, against the framework's own optimizers.

Run it as ``make bench``. Every candidate has its own weights and slots, all take their gradients
from one place, and all are measured in turn in one process, so that a change of the machine's
speed meets them alike. Gradients are fresh in each step, as they are in training: each candidate's
step multiplies stored numbers by a scalar that changes, and that multiplication is part of its
time. Figures are medians; a ratio is the median of the ratios within each round. The second
MomentumOptimizer shows what a ratio of one looks like here.

The result is printed and written to ``benchmarks/results/tensorflow_step.json``.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from shapes import Shapes, resnet50
from timing import Step, machine, measure, show, summary

from novograd import rule
from novograd.tensorflow import NovoGrad

tf1 = tf.compat.v1

RESULT = Path(__file__).parent / "results" / "tensorflow_step.json"
# TensorFlow's executor needs about a hundred runs to learn which operations are cheap enough to run
# without a thread of their own.
ROUNDS, WARM_UP = 30, 100
LEARNING_RATE, BETA1, DECAY = 1e-3, 0.95, 1e-3
REFERENCE, RATIO = "MomentumOptimizer", "ratio_to_momentum"


SHAPES = {"20 x 1M": [(1000, 1000)] * 20, "ResNet-50": resnet50()}


class PlainNovoGrad(tf1.train.MomentumOptimizer):
    """The rule in TensorFlow's ordinary operations: how one would write it first."""

    def __init__(self, weight_decay: float):
        """Takes 0 for no decay."""
        super().__init__(LEARNING_RATE, BETA1)
        self._weight_decay = weight_decay

    def _create_slots(self, var_list: Any) -> None:
        super()._create_slots(var_list)
        for var in var_list:
            self._get_or_make_slot(var, tf.zeros([]), "v", self._name + "_v")

    def _resource_apply_dense(self, grad: Any, var: Any) -> Any:
        m, v = self.get_slot(var, "momentum"), self.get_slot(var, "v")
        s = tf.reduce_sum(tf.square(grad))
        new = tf.where(tf.equal(v, 0.0), s, rule.second_moment(s, v, rule.BETA2))
        scalars = rule.coefficients(
            new,
            lr=LEARNING_RATE,
            beta1=BETA1,
            epsilon=rule.EPSILON,
            weight_decay=self._weight_decay,
            grad_averaging=False,
        )
        step = scalars.a * grad
        if self._weight_decay:
            step += scalars.b * var
        moment = m.assign(BETA1 * m + step)
        return tf.group(var.assign_sub(moment), v.assign(new))


class WithDecay:
    """Another optimizer with ``DECAY`` times the weights added to its gradients."""

    def __init__(self, optimizer: Any):
        """Takes the optimizer to give a decay."""
        self._optimizer = optimizer

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Applies the gradients with the decay in them."""
        return self._optimizer.apply_gradients([(g + DECAY * w, w) for g, w in grads_and_vars])


# Bytes moved for each float32 weight, if no cache helps and the gradient is there already.
CANDIDATES: dict[str, tuple[int, Callable[[], Any]]] = {
    REFERENCE: (20, lambda: tf1.train.MomentumOptimizer(LEARNING_RATE, BETA1)),
    "MomentumOptimizer again": (20, lambda: tf1.train.MomentumOptimizer(LEARNING_RATE, BETA1)),
    "AdamOptimizer": (28, lambda: tf1.train.AdamOptimizer(LEARNING_RATE)),
    "NovoGrad": (32, lambda: NovoGrad(LEARNING_RATE)),
    "NovoGrad, plain operations": (68, lambda: PlainNovoGrad(0.0)),
    "MomentumOptimizer, decay": (
        40,
        lambda: WithDecay(tf1.train.MomentumOptimizer(LEARNING_RATE, BETA1)),
    ),
    "AdamOptimizer, decay": (48, lambda: WithDecay(tf1.train.AdamOptimizer(LEARNING_RATE))),
    "NovoGrad, decay": (44, lambda: NovoGrad(LEARNING_RATE, weight_decay=DECAY)),
    "NovoGrad, decay, beta1 a tensor": (
        52,
        lambda: NovoGrad(LEARNING_RATE, beta1=tf.constant(BETA1), weight_decay=DECAY),
    ),
    "NovoGrad, decay, plain operations": (88, lambda: PlainNovoGrad(DECAY)),
}


def variables(shapes: Shapes) -> list[Any]:
    """Makes variables of small random numbers, without storing them in the graph."""
    return [
        tf1.Variable(
            lambda shape=shape: tf.random.stateless_normal(shape, (0, 1)) * 0.05, use_resource=True
        )
        for shape in shapes
    ]


def build(make: Callable[[], Any], sources: list[Any], factor: Any) -> Any:
    """Returns the operation of one step from fresh gradients."""
    weights = variables([tuple(source.shape) for source in sources])
    gradients = [source * factor for source in sources]
    return make().apply_gradients(list(zip(gradients, weights, strict=True)))


def session_steps(shapes: Shapes) -> Iterator[Step]:
    """Yields a step of each candidate as a run of one v1 Session."""
    with tf.Graph().as_default():
        factor = tf1.placeholder(tf.float32, [])
        sources = variables(shapes)
        operations = [build(make, sources, factor) for _, make in CANDIDATES.values()]
        session = tf1.Session()
        session.run(tf1.global_variables_initializer())
    for operation in operations:
        yield Step(
            lambda turn, operation=operation: session.run(operation, {factor: _factor(turn)})
        )


def function_steps(shapes: Shapes) -> Iterator[Step]:
    """Yields a step of each candidate as a call of a tf.function."""
    sources = variables(shapes)
    for _, make in CANDIDATES.values():
        weights, optimizer = variables(shapes), make()

        @tf.function
        def step(factor, weights=weights, optimizer=optimizer):
            gradients = [source * factor for source in sources]
            optimizer.apply_gradients(list(zip(gradients, weights, strict=True)))
            return factor  # a result to wait for

        yield Step(lambda turn, step=step: step(tf.constant(_factor(turn))).numpy())


def _factor(turn: int) -> float:
    """What the stored numbers are multiplied by, to make the gradients of a round."""
    return 1.0 + 1e-3 * turn


def main() -> None:
    """Measures everything, prints it and writes the result file."""
    results: dict[str, Any] = {
        **machine(),
        "tensorflow": tf.__version__,
        "rounds": ROUNDS,
        "results": {},
    }
    for mode, make_steps in (("Session", session_steps), ("tf.function", function_steps)):
        for shape_name, shapes in SHAPES.items():
            seconds = measure(list(make_steps(shapes)), ROUNDS, WARM_UP)
            figures = summary(seconds, CANDIDATES, {RATIO: REFERENCE})
            for name, (bytes_, _) in CANDIDATES.items():
                figures[name]["bytes_per_weight"] = bytes_
            title = f"{shape_name}, {mode}"
            results["results"][title] = figures
            show(title, figures)
    RESULT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
