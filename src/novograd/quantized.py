"""A momentum buffer in 8 bits: blocks of whole numbers, each block with a scale.

A momentum buffer is a number of rows. A row is the last axis of the weights. If the last axis is
shorter than a block, the row also has the axes before it, as in convolutions, until it has the
elements of a block; the first axis is never in a row. Each row is divided into blocks of 128
neighbours; its last block may be shorter. A block holds ``q*scale``, with whole numbers ``q`` in
-127..127 and a float32 ``scale``.

A step computes with ``q*scale`` and rounds the new buffer at random: up or down, so that its
expected value is exact, and so that changes that are smaller than ``scale`` add up. The random
numbers are a hash of the step and of the element's position in the whole tensor. So they are the
same for any backend, any number of threads and any sharding.

Arrays may be of NumPy, torch or JAX. ``xp`` is the library.
"""

import math
from collections.abc import Sequence

BLOCK = 128
"""The number of elements of a block."""

SMALLEST = 4096
"""Tensors with fewer elements, or with fewer than two axes, are never quantised."""

LARGEST = 127
"""The largest ``q``."""

# Any number that is not 0, as a seed; this one is 2^32 divided by the golden ratio, as int32.
_KEY = -0x61C88647


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
