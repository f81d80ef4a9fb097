"""Layers of Keras variables, and what a step of them needs."""

from dataclasses import asdict
from itertools import accumulate
from typing import Any, NamedTuple

import keras
from keras import ops

from novograd.layers import Layers, Rows, Split, Stacked, second_moment_shape

_KINDS = {kind.__name__: kind for kind in (Stacked, Split, Rows)}


def squared_norms(g: Any, layers: Layers) -> Any:
    """Returns the sums of the squares of the layers of a gradient, in the shape of their ``v``.

    Example:
        >>> squared_norms(ops.ones((3, 4)), Split((1, 2))).shape
        (2, 1)
    """
    if isinstance(layers, Split):
        ends = list(accumulate(layers.sizes))[:-1]
        parts = ops.split(g, ends, layers.axis)
        axes = tuple(range(len(g.shape)))
        sums = [ops.sum(ops.square(part), axes, keepdims=True) for part in parts]
        return ops.concatenate(sums, layers.axis)
    shape = second_moment_shape(layers, g.shape)
    axes = tuple(i for i, size in enumerate(shape) if size == 1)
    squares = ops.square(g)
    return ops.sum(squares, axes, keepdims=True) if shape else ops.sum(squares)


def spread(x: Any, layers: Layers) -> Any:
    """Returns an array in the shape of ``v`` as one that broadcasts with the weights.

    Example:
        >>> spread(ops.array([[1.0], [2.0]]), Split((1, 2))).shape
        (3, 1)
    """
    if not isinstance(layers, Split):
        return x
    parts = ops.split(x, len(layers.sizes), layers.axis)
    parts = [ops.repeat(part, n, layers.axis) for part, n in zip(parts, layers.sizes, strict=True)]
    return ops.concatenate(parts, layers.axis)


def serialized(layers: Any) -> Any:
    """Returns ``layers`` as what a config may hold.

    Example:
        >>> serialized(Rows())
        {'kind': 'Rows', 'axes': None, 'scale': 'norm'}
    """
    kind = type(layers).__name__
    if isinstance(layers, Stacked | Split | Rows):
        return {"kind": kind, **asdict(layers)}
    return keras.saving.serialize_keras_object(layers)


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


class Layer(NamedTuple):
    """One variable's part in a step.

    Attributes:
        gradient: Its gradient, a tensor of the backend.
        variable: The variable.
        momentum: The variable of its moment.
        v: The variable of its second moment.
        weight_decay: What holds for it.
        layers: What its layers are.
    """

    gradient: Any
    variable: Any
    momentum: Any
    v: Any
    weight_decay: float
    layers: Layers


class Hyperparameters(NamedTuple):
    """What holds for all of them."""

    learning_rate: Any
    beta_1: float
    beta_2: float
    epsilon: float
    grad_averaging: bool
    nesterov: bool
