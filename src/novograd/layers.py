"""What counts as a layer, that is, what shares one second moment.

By default (None) it is the weight, that is, the whole tensor. ``Stacked``, ``Split`` and ``Rows``
say otherwise of a weight, and every framework takes them. Whatever a weight's layers are, its
second moment ``v`` is one array, with one number for each layer::

    None             ()
    Stacked, Rows    as many axes as the weight, each of its length or 1: the sum of squares runs
                     over the axes of length 1
    Split            as many axes as the weight, of length 1, but for that which is split

Example:
    >>> second_moment_shape(Rows(axes=0), (64, 3, 3, 3))
    (64, 1, 1, 1)
    >>> second_moment_shape(Split((8, 8, 8)), (24, 8))
    (3, 1)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Stacked:
    """Each index along some axes is a layer of its own, exactly as if it were stored apart.

    For scanned or stacked layers, and for the experts of a mixture.

    Args:
        axes: The axis or axes; negative ones count from the end.

    Raises:
        TypeError: If they are no integers.

    Example:
        >>> second_moment_shape(Stacked(), (8, 128, 512))
        (8, 1, 1)
    """

    axes: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        object.__setattr__(self, "axes", _check_axes("axes", self.axes))


@dataclass(frozen=True)
class Split:
    """The parts of a tensor along an axis are layers of their own.

    For weights that were fused: queries, keys and values, or gate and up.

    Args:
        sizes: The lengths of the parts; their sum is that of the axis.
        axis: The axis; a negative one counts from the end.

    Raises:
        TypeError: If they are no integers.
        ValueError: If a size is negative, or there is none.

    Example:
        >>> second_moment_shape(Split((64, 64, 64)), (192, 64))
        (3, 1)
    """

    sizes: tuple[int, ...]
    axis: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        object.__setattr__(self, "sizes", _check_integers("sizes", self.sizes))
        if not self.sizes or min(self.sizes) < 0:
            raise ValueError(f"sizes must be one or more lengths, got {self.sizes!r}")
        _check_integers("axis", (self.axis,))


@dataclass(frozen=True)
class Rows:
    """Each output unit of a matrix or convolution, or row of an embedding, is a layer of its own.

    Each element of a vector is one, and a scalar as a whole.

    Args:
        axes: The axis or axes of the rows. None is the axis of the output units in the layout of
            the framework: the first in PyTorch; elsewhere the last, but the first of a weight that
            is named ``embedding`` or ``embeddings``.
        scale: ``"norm"`` divides by the root of the number of rows, so that the whole tensor's
            normalised gradient has norm 1, as that of one layer has. ``"rms"`` multiplies by the
            root of the row's length, so that its elements have a root mean square of 1, whatever
            the shape; learning rates are then those of Adam rather than of NovoGrad, and smaller by
            a factor of ``1 - beta1`` without ``grad_averaging``.

    Raises:
        TypeError: If the axes are no integers.
        ValueError: If ``scale`` is something else.

    Example:
        >>> second_moment_shape(Rows(axes=0), (10, 4)), step_scale(Rows(axes=0), (4, 10))
        ((10, 1), 0.5)
    """

    axes: int | tuple[int, ...] | None = None
    scale: Literal["norm", "rms"] = "norm"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if self.axes is not None:
            object.__setattr__(self, "axes", _check_axes("axes", self.axes))
        if self.scale not in ("norm", "rms"):
            raise ValueError(f"scale must be 'norm' or 'rms', got {self.scale!r}")


Layers = Stacked | Split | Rows | None


def check_layers(name: str, value: Any) -> Any:
    """Returns ``value`` after checking that it says what layers are, or is a function that does.

    Raises:
        TypeError: If it is anything else.

    Example:
        >>> check_layers("layers", "rows")
        Traceback (most recent call last):
            ...
        TypeError: layers must be Stacked, Split, Rows, None or a function, got 'rows' of type str
    """
    if not isinstance(value, Layers) and (isinstance(value, type) or not callable(value)):
        raise TypeError(
            f"{name} must be Stacked, Split, Rows, None or a function, got {value!r} of type "
            f"{type(value).__name__}"
        )
    return value


def layers_of(value: Any, arguments: tuple[Any, ...], shape: Sequence[int], rows: int) -> Layers:
    """Returns the layers of one weight, having checked that they fit it.

    Args:
        value: What the user gave: layers, or a function that returns them.
        arguments: What the function is called with.
        shape: Of the weight.
        rows: The axis of ``Rows`` where it names none.

    Raises:
        TypeError: If the function returns something else.
        ValueError: If they do not fit the shape.

    Example:
        >>> layers_of(Rows(), (), (4, 6), rows=-1)
        Rows(axes=-1, scale='norm')
    """
    if not isinstance(value, Layers):
        value = value(*arguments)
        if not isinstance(value, Layers):
            raise TypeError(
                f"layers must return Stacked, Split, Rows or None, got {value!r} for {arguments}"
            )
    if isinstance(value, Rows) and value.axes is None:
        value = replace(value, axes=rows) if shape else None
    second_moment_shape(value, shape)
    return value


def row_axis(name: str) -> int:
    """Returns the axis of ``Rows`` that names none, in the layout of Keras, Flax and TensorFlow.

    It is the last, that of the output units, but the first for a table of embeddings, which is
    known by the name of the weight.

    Example:
        >>> row_axis("kernel"), row_axis("embedding"), row_axis("embeddings")
        (-1, 0, 0)
    """
    return 0 if name in ("embedding", "embeddings") else -1


def second_moment_shape(layers: Layers, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of ``v`` for a weight of a shape.

    Raises:
        ValueError: If the layers do not fit the shape.

    Example:
        >>> second_moment_shape(None, (3, 5)), second_moment_shape(Stacked((0, 2)), (3, 5, 7))
        ((), (3, 1, 7))
    """
    if layers is None:
        return ()
    axes = [_axis(layers, axis, shape) for axis in _axes(layers)]
    if isinstance(layers, Split):
        if sum(layers.sizes) != shape[axes[0]]:
            raise ValueError(f"{layers} does not fit a weight of shape {tuple(shape)}")
        return tuple(len(layers.sizes) if i == axes[0] else 1 for i in range(len(shape)))
    return tuple(size if i in axes else 1 for i, size in enumerate(shape))


def step_scale(layers: Layers, shape: Sequence[int]) -> float:
    """Returns what the normalised gradient of a weight is multiplied by, 1 but for ``Rows``.

    Example:
        >>> step_scale(Rows(0, "norm"), (9, 4)), step_scale(Rows(0, "rms"), (9, 4))
        (0.3333333333333333, 2.0)
    """
    size = math.prod(shape)
    if not isinstance(layers, Rows) or size == 0:
        return 1.0
    rows = math.prod(second_moment_shape(layers, shape))
    return rows**-0.5 if layers.scale == "norm" else (size / rows) ** 0.5


def _axes(layers: Stacked | Split | Rows) -> tuple[int, ...]:
    axes = layers.axis if isinstance(layers, Split) else layers.axes
    if axes is None:
        raise ValueError(f"{layers} names no axes")
    return axes if isinstance(axes, tuple) else (axes,)


def _axis(layers: Layers, axis: int, shape: Sequence[int]) -> int:
    """Returns an axis, counted from the front."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{layers} does not fit a weight of shape {tuple(shape)}")
    return axis % len(shape)


def _check_axes(name: str, axes: Any) -> int | tuple[int, ...]:
    if isinstance(axes, int) and not isinstance(axes, bool):
        return axes
    return _check_integers(name, axes)


def _check_integers(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, Sequence) or not all(type(x) is int for x in values):
        raise TypeError(f"{name} must be integers, got {values!r}")
    return tuple(values)
