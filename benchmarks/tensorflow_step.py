"""Measures the cost of weight decay in TensorFlow, in a Session and in a tf.function.

Run it as ``make bench-tensorflow``. It measures the optimizers of ``novograd bench`` without weight
decay, and optimizers with weight decay, in the same way: each has its own weights and slots, and
takes one step in each round, all in one process. Each step computes new gradients, which is part of
its time. Figures are medians; a ratio is the median of the ratios within each round.

The program prints the result, and writes it to ``benchmarks/results/tensorflow_step.json``.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tables import show

from novograd.bench import tensorflow as bench
from novograd.bench.shapes import Shapes, resnet50
from novograd.bench.tensorflow import BETA1, LEARNING_RATE, PlainNovoGrad, factor, variables
from novograd.bench.timing import TimedStep, measure, summary
from novograd.results import machine
from novograd.tensorflow import NovoGrad

tf1 = tf.compat.v1

RESULT = Path(__file__).parent / "results" / "tensorflow_step.json"
ROUNDS, DECAY = 30, 1e-3
RATIOS = {"ratio_to_momentum": bench.REFERENCE}
SHAPES = {"20 x 1M": [(1000, 1000)] * 20, "ResNet-50": resnet50()}


class WithDecay:
    """An optimizer that adds ``DECAY`` times the weights to the gradients of another one."""

    def __init__(self, optimizer: Any):
        """Stores the other optimizer."""
        self._optimizer = optimizer

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Applies the gradients, with weight decay added."""
        return self._optimizer.apply_gradients([(g + DECAY * w, w) for g, w in grads_and_vars])


# Bytes moved for each float32 weight, if no cache helps and the gradient exists already.
CANDIDATES: dict[str, tuple[int, bench.Make]] = {
    **{name: (bench.BYTES[name], make) for name, make in bench.CANDIDATES.items()},
    "MomentumOptimizer, decay": (40, lambda: WithDecay(bench.MOMENTUM())),
    "AdamOptimizer, decay": (48, lambda: WithDecay(bench.ADAM())),
    "NovoGrad, decay": (44, lambda: NovoGrad(LEARNING_RATE, weight_decay=DECAY)),
    "NovoGrad, decay, beta1 a tensor": (
        52,
        lambda: NovoGrad(LEARNING_RATE, beta1=tf.constant(BETA1), weight_decay=DECAY),
    ),
    "NovoGrad, decay, plain operations": (88, lambda: PlainNovoGrad(DECAY)),
}


def build(make: bench.Make, sources: list[Any], by: Any) -> Any:
    """Returns the operation of one step with new gradients."""
    weights = variables([tuple(source.shape) for source in sources])
    gradients = [source * by for source in sources]
    return make().apply_gradients(list(zip(gradients, weights, strict=True)))


def session_steps(shapes: Shapes) -> Iterator[TimedStep]:
    """Yields a step of each optimizer, as a run of one v1 Session."""
    with tf.Graph().as_default():
        by = tf1.placeholder(tf.float32, [])
        sources = variables(shapes)
        operations = [build(make, sources, by) for _, make in CANDIDATES.values()]
        session = tf1.Session()
        session.run(tf1.global_variables_initializer())
    for operation in operations:
        yield TimedStep(
            lambda number, operation=operation: session.run(operation, {by: factor(number)})
        )


def function_steps(shapes: Shapes) -> Iterable[TimedStep]:
    """Returns a step of each optimizer, as a call of a tf.function."""
    sources = variables(shapes)
    return [bench.function_step(shapes, sources, make) for _, make in CANDIDATES.values()]


def main() -> None:
    """Measures all optimizers, prints the tables and writes the result file."""
    results: dict[str, Any] = {
        **machine(),
        "tensorflow": tf.__version__,
        "rounds": ROUNDS,
        "results": {},
    }
    for mode, make_steps in (("Session", session_steps), ("tf.function", function_steps)):
        for shape_name, shapes in SHAPES.items():
            seconds = measure(list(make_steps(shapes)), ROUNDS, bench.WARM_UP)
            figures = summary(seconds, CANDIDATES, RATIOS)
            for name, (bytes_, _) in CANDIDATES.items():
                figures[name]["bytes_per_weight"] = bytes_
            title = f"{shape_name}, {mode}"
            results["results"][title] = figures
            show(title, figures)
    RESULT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
