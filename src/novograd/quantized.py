"""A momentum buffer in 8 bits: blocks of whole numbers, each block with a scale.

A momentum buffer is a number of rows. A row is the last axis of the weights. If the last axis is
shorter than a block, the row also has the axes before it, as in convolutions, until it has the
elements of a block; the first axis is never in a row. Each row is divided into blocks of 128
neighbours; its last block may be shorter. A block holds ``q*scale``, with whole numbers ``q`` in
-127..127 and a float32 ``scale``.

A step computes with ``q*scale`` and rounds the new buffer at random: up or down, so that its
expected value is exact, and so that changes that are smaller than ``scale`` add up. The random
numbers are a hash of the step and of the element's position in the whole tensor, see
``novograd.rounding``. So they are the same for any backend, any number of threads and any sharding.

Arrays may be of NumPy, torch or JAX. ``xp`` is the library.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

BLOCK = 128
"""The number of elements of a block."""

SMALLEST = 4096
"""Tensors with fewer elements, or with fewer than two axes, are never quantised."""

LARGEST = 127
"""The largest ``q``."""


def is_quantised(shape: Sequence[int]) -> bool:
    """Whether the momentum buffer of weights of the given shape is quantised, if this is wanted.

    Example:
        >>> is_quantised((64, 64)), is_quantised((32, 64)), is_quantised((10000,))
        (True, False, False)
    """
    return len(shape) > 1 and math.prod(shape) >= SMALLEST


def row_axis(shape: Sequence[int]) -> int:
    """Returns the first axis of a row.

    Args:
        shape: The shape of the whole real tensor, with at least two axes.

    Example:
        >>> row_axis((10, 200, 300)), row_axis((64, 32, 3, 3)), row_axis((1000, 64))
        (2, 1, 1)
    """
    axis = len(shape) - 1
    while axis > 1 and math.prod(shape[axis:]) < BLOCK:
        axis -= 1
    return axis


def scale_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of the scales: the axes before the row, then the blocks of a row.

    Args:
        shape: The shape of the whole real tensor, with at least two axes.

    Example:
        >>> scale_shape((10, 200, 300)), scale_shape((64, 32, 3, 3))
        ((10, 200, 3), (64, 3))
    """
    axis = row_axis(shape)
    return *shape[:axis], -(-math.prod(shape[axis:]) // BLOCK)


def to_blocks(x: Any, shape: Sequence[int], pad: Callable[[Any, int], Any]) -> Any:
    """Returns the blocks of an array, along a last axis of 128 elements.

    Args:
        x: An array of the shape of the real weights, or a piece of whole blocks.
        shape: The shape of its scales.
        pad: A function that appends the given number of zeros along the last axis of an array.

    Example:
        >>> import numpy as np
        >>> pad = lambda rows, count: np.pad(rows, ((0, 0), (0, count)))
        >>> to_blocks(np.ones((64, 100, 3)), scale_shape((64, 100, 3)), pad).shape
        (64, 3, 128)
    """
    before = len(shape) - 1
    row = math.prod(x.shape[before:])
    rows = x.reshape((*shape[:before], row))
    return (pad(rows, -row % BLOCK) if row % BLOCK else rows).reshape((*shape, BLOCK))


def from_blocks(blocks: Any, shape: Sequence[int]) -> Any:
    """Returns an array of the given shape from its blocks, which may be padded.

    Example:
        >>> import numpy as np
        >>> from_blocks(np.ones((64, 3, 128)), (64, 100, 3)).shape
        (64, 100, 3)
    """
    *before, count, _ = blocks.shape
    row = math.prod(shape[len(before) :])
    return blocks.reshape((*before, count * BLOCK))[..., :row].reshape(shape)


def quantised(blocks: Any, bits: Any, *, xp: Any, float32: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Returns ``q``, as whole numbers in the dtype of the blocks, and the float32 scales.

    Args:
        blocks: The new buffer, with a last axis of blocks. A short block is padded with zeros.
        bits: The random bits of the elements.
        xp: The array library.
        float32: Converts an array to float32. (``torch.asarray`` would move it to torch's default
            device.)

    Returns:
        ``q``, and the scales without the last axis. If an element of a block is not finite, the
        scale of the block is NaN. A block of tiny elements, below 2^-93, becomes 0.

    Example:
        >>> import numpy as np
        >>> q, scales = quantised(
        ...     np.float32([[1.0, 0.5]]), np.int32([[0, 65535]]), xp=np, float32=np.float32
        ... )
        >>> q.tolist(), scales.tolist()
        ([[126.0, 64.0]], [0.007874015718698502])
    """
    largest = float32(xp.amax(xp.abs(blocks), axis=-1, keepdims=True))
    finite = xp.isfinite(largest)
    used = finite & (largest > LARGEST * 2.0**-100)
    # In units of 2^-16 the random bits are whole numbers. The largest value of a block becomes one
    # less than 127*2^16, so that rounding errors cannot lead to 128.
    divisor = xp.where(used, largest, 1.0)
    # torch divides a Python number by a tensor with two roundings, so this divides two tensors.
    inverse = (LARGEST * 2.0**16 - 1) * xp.ones_like(divisor) / divisor
    exact = xp.round(xp.where(used, blocks, 0.0) * inverse)
    scales = float32(xp.where(used, largest / LARGEST, xp.where(finite, 0.0, math.nan)))
    return xp.floor((exact + bits) * 2.0**-16), scales[..., 0]
