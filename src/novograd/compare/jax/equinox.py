"""Modules of Equinox."""

import inspect
from typing import Any

import equinox as eqx
import jax

from novograd.compare.errors import TaskError
from novograd.compare.jax.model import Model

BATCH = "batch"  # the name of the axis of the examples, for ``eqx.nn.BatchNorm``


def converted(built: Any, seed: int) -> Model:
    """Returns a module as arrays and a function.

    A module takes one example. So it is mapped over the batch, whose axis has the name ``BATCH``.
    All floating arrays of the module are trained. If the module takes a ``key``, each example gets
    its own.

    Args:
        built: The module; or the module and its state, as from ``eqx.nn.make_with_state``.
        seed: Seed of the keys.

    Raises:
        TaskError: If the module needs a state that is missing.
    """
    module, *states = built if isinstance(built, tuple) else (built,)
    if not states and _has_state(module):
        raise TaskError(
            "the equinox.Module has state: task.model must return the module and its state, as "
            "from equinox.nn.make_with_state"
        )
    weights, rest = eqx.partition(module, eqx.is_inexact_array)
    takes_key = "key" in inspect.signature(module.__call__).parameters

    def call(weights: Any, others: Any, inputs: Any, training: bool) -> tuple[Any, Any]:
        states, key = others
        module = eqx.combine(weights, rest)
        if not training:
            module = eqx.nn.inference_mode(module)

        def one(example: Any, key: Any) -> tuple[Any, Any]:
            keys = {"key": key} if takes_key else {}
            returned = module(example, *states, **keys)
            return returned if states else (returned, None)

        key, for_batch = jax.random.split(key)
        keys = jax.random.split(for_batch, jax.tree.leaves(inputs)[0].shape[0])
        mapped = jax.vmap(one, axis_name=BATCH, out_axes=(0, None))
        outputs, state = mapped(inputs, keys)
        return outputs, ([state] if states else [], key)

    others = (states, jax.random.key(seed))
    return Model(weights, others, call, {"equinox": eqx.__version__}, rows=0)


def _has_state(module: Any) -> bool:
    leaves = jax.tree.leaves(module, is_leaf=lambda x: isinstance(x, eqx.nn.StateIndex))
    return any(isinstance(leaf, eqx.nn.StateIndex) for leaf in leaves)
