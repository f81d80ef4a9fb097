"""Layers: which weights share one second moment.

By default (None) a layer is a whole parameter. ``Stacked``, ``Split`` and ``Rows`` divide a
parameter into several layers; every framework accepts them. If the variant of an optimizer divides
parameters by default, ``Whole`` makes one layer of a parameter again. The second moments ``v`` of a
parameter are one array, with one number for each layer. Its shape is::

    None, Whole      ()
    Stacked, Rows    as many axes as the parameter: the axes of the layers keep their length, the
                     others have length 1, and the squared norm is summed over them
    Split            as many axes as the parameter: the split axis has one element for each part,
                     the others have length 1

Example:
    >>> second_moment_shape(Rows(axes=0), (64, 3, 3, 3))
    (64, 1, 1, 1)
    >>> second_moment_shape(Split((8, 8, 8)), (24, 8))
    (3, 1)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Stacked:
    """Each index along some axes is a separate layer, as if it were a parameter of its own.

    For scanned or stacked layers, and for the experts of a mixture.

    Args:
        axes: The axis or axes; negative ones count from the end.

    Raises:
        TypeError: If ``axes`` contains anything but integers.

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
    """The parts of a parameter along an axis are separate layers.

    For fused weights: queries, keys and values, or gate and up.

    Args:
        sizes: The lengths of the parts; they add up to the length of the axis.
        axis: The axis; a negative one counts from the end.

    Raises:
        TypeError: If ``sizes`` or ``axis`` is anything but integers.
        ValueError: If a size is negative, or ``sizes`` is empty.

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
            raise ValueError(f"sizes must be one or more integers of at least 0, got {self.sizes}")
        _check_integers("axis", (self.axis,))


@dataclass(frozen=True)
class Rows:
    """Each output unit of a matrix or convolution, or row of an embedding, is a separate layer.

    Each element of a vector is a layer. A scalar is one layer.

    Args:
        axes: The axis or axes of the rows. None means the axis of the output units in the layout of
            the framework: the first axis in PyTorch; in other frameworks the last, except for
            weights named ``embedding`` or ``embeddings``, where it is the first, and
            ``depthwise_kernel``, where it is the last two axes.
        scale: ``"norm"`` divides the normalised gradients by the square root of the number of rows,
            so that the normalised gradient of the whole parameter has norm 1, like the gradient of
            one layer. ``"rms"`` multiplies them by the square root of the row's length, so that
            their elements have a root mean square of 1, whatever the shape; learning rates are then
            like Adam's and not like NovoGrad's, and smaller by a factor of ``1 - beta1`` without
            ``grad_averaging``.

    Raises:
        TypeError: If ``axes`` contains anything but integers.
        ValueError: If ``scale`` is anything else.

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


@dataclass(frozen=True)
class Whole:
    """The whole parameter is one layer, whatever the variant's default is.

    Example:
        >>> layers_of(Whole(), (), (10, 4), rows=0) is None
        True
    """


# The layers of one parameter, as layers_of returns them. Users and variants may also give Whole.
Layers = Stacked | Split | Rows | None
Kind = Layers | Whole
KINDS = {kind.__name__: kind for kind in (Stacked, Split, Rows, Whole)}


def check_layers(name: str, value: Any) -> Any:
    """Returns ``value`` after checking that it defines layers, or is a function.

    Raises:
        TypeError: If ``value`` is anything else.

    Example:
        >>> check_layers("layers", "rows")
        Traceback (most recent call last):
            ...
        TypeError: layers must be Stacked, Split, Rows, Whole, None or a function, got 'rows' of \
type str
    """
    if not isinstance(value, Kind) and (isinstance(value, type) or not callable(value)):
        raise TypeError(
            f"{name} must be Stacked, Split, Rows, Whole, None or a function, got {value!r} of "
            f"type {type(value).__name__}"
        )
    return value


def layers_of(
    value: Any, arguments: tuple[Any, ...], shape: Sequence[int], rows: int | tuple[int, ...]
) -> Layers:
    """Returns the layers of one parameter, after checking that they fit its shape.

    Args:
        value: The user's value: layers, ``Whole``, or a function that returns one of these.
        arguments: The arguments for the function.
        shape: The shape of the parameter.
        rows: The axes for ``Rows`` without axes.

    Raises:
        TypeError: If the function returns anything but layers.
        ValueError: If the layers do not fit the shape.

    Example:
        >>> layers_of(Rows(), (), (4, 6), rows=-1)
        Rows(axes=-1, scale='norm')
    """
    if not isinstance(value, Kind):
        value = value(*arguments)
        if not isinstance(value, Kind):
            raise TypeError(
                f"layers must return Stacked, Split, Rows, Whole or None, got {value!r} for "
                f"{arguments}"
            )
    if isinstance(value, Whole):
        return None
    if isinstance(value, Rows) and value.axes is None:
        value = replace(value, axes=rows) if shape else None
    second_moment_shape(value, shape)
    return value


def as_config(layers: Kind) -> dict[str, Any] | None:
    """Returns layers as plain data for files.

    Example:
        >>> as_config(Split((2, 3)))
        {'kind': 'Split', 'sizes': [2, 3], 'axis': 0}
    """
    if layers is None:
        return None
    fields = {k: list(x) if isinstance(x, tuple) else x for k, x in asdict(layers).items()}
    return {"kind": type(layers).__name__, **fields}


def from_config(config: Any) -> Any:
    """Undoes ``as_config``; returns anything else unchanged.

    Example:
        >>> from_config({"kind": "Stacked", "axes": [0, 1]})
        Stacked(axes=(0, 1))
    """
    if not isinstance(config, dict) or config.get("kind") not in KINDS:
        return config
    return KINDS[config["kind"]](**{k: x for k, x in config.items() if k != "kind"})


def row_axes(name: str) -> int | tuple[int, ...]:
    """Returns the axes for ``Rows`` without axes, in the layout of Keras, Flax and TensorFlow.

    The name of the weight tells whether it is a table of embeddings, whose rows are along the first
    axis, or the depthwise kernel of a separable convolution in Keras, whose last two axes together
    count the output units. In all other weights the output units are along the last axis.

    Example:
        >>> row_axes("kernel"), row_axes("embeddings"), row_axes("depthwise_kernel")
        (-1, 0, (-2, -1))
    """
    return {"embedding": 0, "embeddings": 0, "depthwise_kernel": (-2, -1)}.get(name, -1)


def second_moment_shape(layers: Layers, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of ``v`` for a parameter of the given shape.

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
    """Returns the factor of a parameter's normalised gradient; it is 1 except for ``Rows``.

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
        raise ValueError(f"axes must be given, got {layers}")
    return axes if isinstance(axes, tuple) else (axes,)


def _axis(layers: Layers, axis: int, shape: Sequence[int]) -> int:
    """Returns the index of an axis, counted from the front."""
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
