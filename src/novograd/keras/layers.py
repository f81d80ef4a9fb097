"""Layers of Keras variables, and what a step of them needs."""

from dataclasses import asdict
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from novograd.layers import Layers, Rows, Split, Stacked, second_moment_shape
from novograd.variants import Variant

_KINDS = {kind.__name__: kind for kind in (Stacked, Split, Rows)}


def layer_norms(g: Any, layers: Layers, norm: str) -> Any:
    """Returns what the ``v`` of layers averages, in its shape.

    That is the sum of the squares of a gradient, or with norm "inf" its largest element.

    Example:
        >>> tuple(layer_norms(ops.ones((3, 4)), Split((1, 2)), "l2").shape)
        (2, 1)
    """
    squares: Any = ops.square(g) if norm == "l2" else ops.abs(g)
    total = ops.sum if norm == "l2" else _largest
    if isinstance(layers, Split):
        axes = tuple(range(len(g.shape)))
        # On TensorFlow ops.split cannot make a single part.
        before = (slice(None),) * axes[layers.axis]
        ends = accumulate(layers.sizes, initial=0)
        parts = [squares[(*before, slice(*part))] for part in pairwise(ends)]
        sums = [total(part, axes, keepdims=True) for part in parts]
        return ops.concatenate(sums, layers.axis)
    shape = second_moment_shape(layers, g.shape)
    axes = tuple(i for i, size in enumerate(shape) if size == 1)
    return total(squares, axes, keepdims=True) if shape else total(squares)


def _largest(x: Any, axes: Any = None, keepdims: bool = False) -> Any:
    """Returns the largest of numbers that are not negative, 0 of none."""
    return ops.max(x, axes, keepdims=keepdims, initial=0)


def spread(x: Any, layers: Layers) -> Any:
    """Returns an array in the shape of ``v`` as one that broadcasts with the weights.

    Example:
        >>> tuple(spread(ops.array([[1.0], [2.0]]), Split((1, 2))).shape)
        (3, 1)
    """
    if not isinstance(layers, Split) or not len(np.shape(x)):
        return x
    return ops.take(x, np.repeat(np.arange(len(layers.sizes)), layers.sizes), layers.axis)


def serialized(layers: Any) -> Any:
    """Returns ``layers`` as what a config may hold.

    Example:
        >>> serialized(Split((2, 3)))
        {'kind': 'Split', 'sizes': [2, 3], 'axis': 0}
    """
    if not isinstance(layers, Stacked | Split | Rows):
        return keras.saving.serialize_keras_object(layers)
    fields = {k: list(x) if isinstance(x, tuple) else x for k, x in asdict(layers).items()}
    return {"kind": type(layers).__name__, **fields}


def deserialized(value: Any, custom_objects: Any = None) -> Any:
    """Undoes ``serialized``.

    Example:
        >>> deserialized({"kind": "Stacked", "axes": [0, 1]})
        Stacked(axes=(0, 1))
    """
    if isinstance(value, dict) and value.get("kind") in _KINDS:
        return _KINDS[value["kind"]](**{k: x for k, x in value.items() if k != "kind"})
    if isinstance(value, Layers):
        return value
    return keras.saving.deserialize_keras_object(value, custom_objects)


class VariableUpdate(NamedTuple):
    """One variable's part in a step.

    Attributes:
        gradient: Its gradient, a tensor of the backend.
        variable: The variable.
        momentum: The variable of its moment.
        v: The variable of its second moment.
        weight_decay: What holds for it.
        layers: What its layers are.
        maximum: The variable of its largest second moments, for amsgrad.
    """

    gradient: Any
    variable: Any
    momentum: Any
    v: Any
    weight_decay: float
    layers: Layers
    maximum: Any = None


class StepOptions(NamedTuple):
    """What holds for all of them; ``count`` is how many steps were taken before."""

    learning_rate: Any
    beta_1: float
    beta_2: float
    epsilon: float
    grad_averaging: bool
    nesterov: bool
    variant: Variant
    count: Any
