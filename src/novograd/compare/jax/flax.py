"""Modules of Flax NNX."""

from typing import Any

import flax
import jax
from flax import nnx

from novograd.compare.jax.model import Model


def converted(module: nnx.Module, _: int) -> Model:
    """Returns a module as arrays and a function.

    Its parameters (``nnx.Param``) are trained. A training step also updates its other state, such
    as batch statistics and the counts of random numbers. Predictions do not.
    """
    graph, weights, others = nnx.split(module, nnx.Param, ...)

    def call(weights: Any, others: Any, inputs: Any, training: bool) -> tuple[Any, Any]:
        # New variables, because a module changes its own, and those may be of an outer trace.
        module = nnx.merge(graph, *jax.tree.map(lambda x: x, (weights, others)))
        module.train() if training else module.eval()
        outputs = module(inputs)
        nnx.pop(module, nnx.Intermediate)  # what the module has recorded with ``sow``
        return outputs, nnx.split(module, nnx.Param, ...)[2]

    return Model(weights, others, call, {"flax": flax.__version__})
