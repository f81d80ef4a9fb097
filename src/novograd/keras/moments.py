"""Momentum buffers in 8 bits, in Keras's operations.

This is ``novograd.quantized`` again, because tensors of TensorFlow do not have all its operators.
The JAX backend of Keras uses ``novograd.jax.moments``.
"""

import math
from typing import Any

from keras import ops

from novograd.keras.layers import VariableUpdate
from novograd.quantized import BLOCK, LARGEST

_KEY = -0x61C88647


def wide(update: VariableUpdate, dtype: str) -> Any:
    """Returns the momentum buffer of a variable in the dtype of the arithmetic."""
    if update.scale is None:
        return ops.cast(update.momentum, dtype)
    return dequantised(update.momentum, update.scale, dtype)


def dequantised(q: Any, scales: Any, dtype: str) -> Any:
    """Returns a quantised buffer in the dtype of the arithmetic.

    Example:
        >>> scales = ops.array([[2.0, 4.0], [1.0, 3.0]])
        >>> m = dequantised(ops.ones((2, 130), "int8"), scales, "float32")
        >>> ops.convert_to_numpy(m)[:, 127:129].tolist()
        [[2.0, 4.0], [1.0, 3.0]]
    """
    wide: Any = ops.cast(scales, dtype)
    blocks = _to_blocks(ops.cast(q, dtype), tuple(scales.shape))
    return _from_blocks(blocks * ops.expand_dims(wide, -1), tuple(q.shape))


def quantised(moment: Any, scale_shape: tuple[int, ...], step: Any) -> tuple[Any, Any]:
    """Rounds a new buffer at random.

    Args:
        moment: The new buffer, in the dtype of the arithmetic.
        scale_shape: The shape of its scales.
        step: The number of steps before this one.

    Returns:
        The whole numbers, in the dtype of the arithmetic, and the float32 scales.

    Example:
        >>> q, scales = quantised(ops.full((64, 64), 2.54), (64, 1), 0)
        >>> int(ops.min(q)), int(ops.max(q)), round(float(scales[0, 0]), 4)
        (127, 127, 0.02)
    """
    blocks: Any = _to_blocks(moment, scale_shape)
    largest: Any = ops.cast(ops.max(ops.abs(blocks), axis=-1, keepdims=True), "float32")
    scales: Any = ops.where(ops.isfinite(largest), largest / LARGEST, math.nan)
    used = scales > 0
    divisor: Any = ops.cast(ops.where(used, scales, 1.0), blocks.dtype)
    exact: Any = ops.where(used, blocks, ops.zeros_like(blocks)) / divisor
    bits = ops.cast(_random_bits(math.prod(moment.shape), step), blocks.dtype)
    bits = _to_blocks(ops.reshape(bits, moment.shape), scale_shape)
    q = ops.clip(ops.floor(exact + bits * 2.0**-16), -LARGEST, LARGEST)
    return _from_blocks(q, tuple(moment.shape)), ops.squeeze(scales, -1)


def _random_bits(size: int, step: Any) -> Any:
    """Returns the random bits of the elements of a tensor with the given number of elements."""
    pairs: Any = ops.arange((size + 1) // 2, dtype="int64")
    low, high = ops.cast(pairs, "int32"), ops.cast(ops.right_shift(pairs, 32), "int32")
    key: Any = ops.cast(step, "int32")
    words = _mixed(low ^ _mixed(high ^ _mixed(key ^ _KEY)))
    halves = ops.stack([words & 0xFFFF, _shifted(words, 16)], axis=-1)
    bits: Any = ops.reshape(halves, (-1,))
    return bits[:size]


def _mixed(x: Any) -> Any:
    """Mixes the bits of 32-bit integers, like ``novograd.quantized``."""
    x = (x ^ _shifted(x, 16)) * 0x21F0AAAD
    x = (x ^ _shifted(x, 15)) * -0x2CA5D269
    return x ^ _shifted(x, 15)


def _shifted(x: Any, count: int) -> Any:
    """Shifts the bits of int32 to the right; zeros come in, and not the sign."""
    shifted: Any = ops.right_shift(x, count)
    return shifted & ((1 << (32 - count)) - 1)


def _to_blocks(x: Any, scale_shape: tuple[int, ...]) -> Any:
    """Returns the blocks of a tensor, for scales of the given shape."""
    before = scale_shape[:-1]
    row = math.prod(x.shape[len(before) :])
    rows = ops.reshape(x, (*before, row))
    if row % BLOCK:
        rows = ops.pad(rows, [(0, 0)] * len(before) + [(0, -row % BLOCK)])
    return ops.reshape(rows, (*scale_shape, BLOCK))


def _from_blocks(blocks: Any, shape: tuple[int, ...]) -> Any:
    """Returns a tensor of the given shape from its blocks."""
    *before, count, _ = blocks.shape
    row = math.prod(shape[len(before) :])
    rows: Any = ops.reshape(blocks, (*before, count * BLOCK))
    return ops.reshape(rows[..., :row], shape)
