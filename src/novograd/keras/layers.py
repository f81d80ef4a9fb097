"""Layers of Keras variables, and the inputs of a step."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from novograd.layers import Kind, Layers, Split, as_config, from_config, second_moment_shape
from novograd.variants import Variant


def layer_norms(g: Any, layers: Layers, norm: str) -> Any:
    """Returns the quantity that ``v`` averages, in the shape of ``v``.

    That is the squared norm of each layer or, with norm "inf", its largest absolute value.

    Example:
        >>> tuple(layer_norms(ops.ones((3, 4)), Split((1, 2)), "l2").shape)
        (2, 1)
    """
    squares: Any = ops.square(g) if norm == "l2" else ops.abs(g)
    total = ops.sum if norm == "l2" else _largest
    if isinstance(layers, Split):
        axes = tuple(range(len(g.shape)))
        # On TensorFlow, ops.split cannot return a single part.
        before = (slice(None),) * axes[layers.axis]
        ends = accumulate(layers.sizes, initial=0)
        parts = [squares[(*before, slice(*part))] for part in pairwise(ends)]
        sums = [total(part, axes, keepdims=True) for part in parts]
        return ops.concatenate(sums, layers.axis)
    shape = second_moment_shape(layers, g.shape)
    axes = tuple(i for i, size in enumerate(shape) if size == 1)
    return total(squares, axes, keepdims=True) if shape else total(squares)


def _largest(x: Any, axes: Any = None, keepdims: bool = False) -> Any:
    """Returns the largest of numbers that are not negative, or 0 if there are none."""
    return ops.max(x, axes, keepdims=keepdims, initial=0)


def spread(x: Any, layers: Layers) -> Any:
    """Repeats an array in the shape of ``v``, so that the result broadcasts with the weights.

    Example:
        >>> tuple(spread(ops.array([[1.0], [2.0]]), Split((1, 2))).shape)
        (3, 1)
    """
    if not isinstance(layers, Split) or not len(np.shape(x)):
        return x
    return ops.take(x, np.repeat(np.arange(len(layers.sizes)), layers.sizes), layers.axis)


def serialized(layers: Any) -> Any:
    """Returns ``layers`` in a form for a config.

    Example:
        >>> serialized(Split((2, 3)))
        {'kind': 'Split', 'sizes': [2, 3], 'axis': 0}
    """
    if isinstance(layers, Kind):
        return as_config(layers)
    return keras.saving.serialize_keras_object(layers)


def deserialized(value: Any, custom_objects: Any = None) -> Any:
    """Returns the ``layers`` that ``serialized`` has converted.

    Example:
        >>> deserialized({"kind": "Stacked", "axes": [0, 1]})
        Stacked(axes=(0, 1))
    """
    layers = from_config(value)
    if isinstance(layers, Kind):
        return layers
    return keras.saving.deserialize_keras_object(value, custom_objects)


class VariableUpdate(NamedTuple):
    """The inputs of a step for one variable.

    Attributes:
        gradient: The gradient, a tensor of the backend.
        variable: The variable.
        momentum: The variable of the momentum buffer.
        v: The variable of the second moment.
        weight_decay: The weight decay of this variable.
        layers: The layers of this variable.
        maximum: The variable of the largest second moments so far, for amsgrad.
        scale: The variable of the scales of a momentum buffer in 8 bits.
    """

    gradient: Any
    variable: Any
    momentum: Any
    v: Any
    weight_decay: float
    layers: Layers
    maximum: Any = None
    scale: Any = None


class StepOptions(NamedTuple):
    """The inputs of a step for all variables; ``count`` is the number of steps before this one."""

    learning_rate: Any
    beta_1: float
    beta_2: float
    epsilon: float
    grad_averaging: bool
    nesterov: bool
    variant: Variant
    count: Any

    def counts(self, updates: Sequence[VariableUpdate]) -> bool:
        """Whether the step of the given variables depends on the number of steps before it."""
        return self.variant.counts or any(update.scale is not None for update in updates)
