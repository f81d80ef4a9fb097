"""The parts of the optimizer for Keras's JAX backend, which has native kernels and layouts."""

from collections.abc import Sequence
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec
from keras import ops

from novograd.jax import ffi, leaves
from novograd.jax.layout import LeafLayout
from novograd.keras.layers import StepOptions, VariableUpdate
from novograd.keras.plain import dense, fits
from novograd.layers import step_scale

__all__ = ["dense", "fits", "step", "v_layout"]


def step(updates: Sequence[VariableUpdate], hyper: StepOptions) -> list[VariableUpdate]:
    """Takes the step of all variables.

    Args:
        updates: One for each variable. The weight decay of each is 0 or the same number.
        hyper: The hyperparameters.

    Returns:
        The variables that were not updated: none.
    """
    given = []
    for g, w, m, v, weight_decay, chosen, maximum, scale in updates:
        layout = LeafLayout(
            chosen, tuple(v.shape), step_scale(chosen, w.shape), whole=tuple(w.shape)
        )
        leaf = leaves.Leaf(
            gradient=g,
            moment=m.value,
            v=v.value,
            weights=w.value,
            maximum=None if maximum is None else maximum.value,
            layout=layout,
            decays=weight_decay != 0,
            scales=None if scale is None else scale.value,
        )
        given.append(leaf)
    numbers = leaves.StepHyperparameters(
        ops.convert_to_tensor(hyper.learning_rate),
        hyper.beta_1,
        hyper.beta_2,
        hyper.epsilon,
        max((update.weight_decay for update in updates), default=0.0),
        ops.convert_to_tensor(hyper.count) if hyper.counts(updates) else 0.0,
    )
    switches = leaves.Switches(
        hyper.variant, hyper.grad_averaging, hyper.nesterov, skip_nonfinite=False, applies=True
    )
    stepped = ffi.step(given, numbers, switches, demanded=False)
    for (_, w, m, v, *_, maximum, scale), after in zip(updates, stepped, strict=True):
        w.assign(after.weights)
        m.assign(after.moment)
        v.assign(after.v)
        if maximum is not None:
            maximum.assign(after.maximum)
        if scale is not None:
            scale.assign(after.scales)
    return []


def v_layout(momentum: Any, shape: tuple[int, ...]) -> NamedSharding | None:
    """Returns the layout of ``v``: on axes of full length, the layout of the momentum buffer.

    Without a layout, Keras would look for a pattern that matches the variable's name. That name
    contains the name of the weight, so Keras could find the weight's layout, which has other axes.

    Example:
        >>> import keras
        >>> v_layout(keras.Variable([1.0]), ()) is None  # on one device
        True
    """
    sharding = getattr(momentum.value, "sharding", None)  # a traced array has no sharding
    if not isinstance(sharding, NamedSharding):
        return None
    lengths = zip(sharding.spec, momentum.shape, shape, strict=False)
    names = [name if whole == length else None for name, whole, length in lengths]
    return NamedSharding(sharding.mesh, PartitionSpec(*names))
