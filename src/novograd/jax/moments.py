"""Momentum buffers in 8 bits, in JAX's operations; ``novograd.quantized`` describes them.

The buffer of complex weights has one more axis, the last one, for their real pairs.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from novograd import quantized, rounding
from novograd.jax.layout import LeafLayout
from novograd.quantized import BLOCK, from_blocks, to_blocks

Shape = tuple[int, ...]


def is_quantised(w: Any, layout: LeafLayout) -> bool:
    """Whether the momentum buffer of a leaf, or of a piece of it, is quantised if this is wanted.

    Example:
        >>> is_quantised(jnp.ones((64, 64)), LeafLayout(whole=(64, 64)))
        True
    """
    return jnp.issubdtype(jnp.result_type(w), jnp.inexact) and quantized.is_quantised(layout.whole)


def used_scales(held: Any) -> Any:
    """Returns the scales that a state holds for a leaf; None if its buffer is not quantised.

    Example:
        >>> used_scales(jnp.zeros(())) is None, used_scales(jnp.ones((64, 1))).shape
        (True, (64, 1))
    """
    return held if held is not None and jnp.ndim(held) else None


def real_shape(w: Any) -> Shape:
    """Returns the shape of the real numbers of a leaf.

    Example:
        >>> real_shape(jnp.ones(3)), real_shape(jnp.ones(3) + 1j)
        ((3,), (3, 2))
    """
    return (*jnp.shape(w), 2) if jnp.iscomplexobj(w) else jnp.shape(w)


def scale_shape(shape: Shape, layout: LeafLayout) -> Shape:
    """Returns the shape of the scales of a leaf, or of the piece of a leaf on one device.

    Args:
        shape: The shape of its real numbers.
        layout: Its layout.

    Raises:
        ValueError: If the piece has parts of blocks.

    Example:
        >>> scale_shape((64, 256), LeafLayout(whole=(64, 512)))
        (64, 2)
    """
    whole = _whole(shape, layout)
    axis = quantized.row_axis(whole)
    row = math.prod(shape[axis:])
    if shape[axis:] != whole[axis:] and (shape[axis + 1 :] != whole[axis + 1 :] or row % BLOCK):
        raise ValueError(
            f"mu_dtype=int8 needs pieces of whole blocks: a row, of axes {axis} to "
            f"{len(whole) - 1} of the shape {whole}, must be cut at multiples of {BLOCK} elements, "
            f"got a piece of shape {shape}"
        )
    return *shape[:axis], -(-row // BLOCK)


def new_moment(w: Any) -> jax.Array:
    """Returns the quantised momentum buffer of a leaf before the first step.

    Example:
        >>> new_moment(jnp.ones(2) + 1j).shape
        (2, 2)
    """
    real = jnp.stack([w.real, w.imag], -1) if jnp.iscomplexobj(w) else w
    return jnp.zeros_like(real, dtype=jnp.int8)


def new_scales(q: Any, layout: LeafLayout) -> jax.Array:
    """Returns the scales of a new buffer, computed from it, so that they have its sharding.

    Example:
        >>> new_scales(jnp.zeros((64, 200), jnp.int8), LeafLayout(whole=(64, 200))).shape
        (64, 2)
    """
    blocks = to_blocks(q, scale_shape(q.shape, layout), _pad)
    return jnp.asarray(jnp.max(blocks, axis=-1), jnp.float32)


def dequantised(q: Any, scales: Any, dtype: Any) -> jax.Array:
    """Returns a quantised buffer in the dtype of the arithmetic.

    Example:
        >>> q, scales = jnp.ones((2, 130), jnp.int8), jnp.array([[2.0, 4.0], [1.0, 3.0]])
        >>> dequantised(q, scales, jnp.float32)[:, 127:129].tolist()
        [[2.0, 4.0], [1.0, 3.0]]
    """
    blocks = jnp.asarray(to_blocks(q, scales.shape, _pad), dtype) * scales[..., jnp.newaxis]
    return from_blocks(blocks, q.shape)


def quantised(
    moment: Any, q: Any, scales: Any, step: Any, layout: LeafLayout, written: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Rounds a new buffer at random.

    Args:
        moment: The new buffer, in the dtype of the arithmetic.
        q: The old buffer.
        scales: Its scales.
        step: The number of steps before this one.
        layout: The layout of the leaf.
        written: Which elements change, in the shape of the buffer; None: all. A block is written if
            one of its elements changes.

    Returns:
        The new buffer and its scales.

    Example:
        >>> q, scales = jnp.zeros((64, 64), jnp.int8), jnp.zeros((64, 1))
        >>> moment = jnp.full((64, 64), 2.54)
        >>> q, scales = quantised(moment, q, scales, 0, LeafLayout(whole=(64, 64)))
        >>> int(q.min()), int(q.max()), round(float(scales[0, 0]), 4)
        (127, 127, 0.02)
    """
    shape = scales.shape
    bits = to_blocks(_random_bits(q.shape, step, layout), shape, _pad)
    new, found = quantized.quantised(
        to_blocks(moment, shape, _pad), bits, xp=jnp, float32=jnp.float32
    )
    new = jnp.asarray(new, jnp.int8)
    if written is not None:
        kept = ~jnp.any(to_blocks(written, shape, _pad), axis=-1)
        new = jnp.where(kept[..., jnp.newaxis], to_blocks(q, shape, _pad), new)
        found = jnp.where(kept, scales, found)
    return from_blocks(new, q.shape), found


def pair_of(index: list[Any], whole: Shape) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns ``position // 2`` as a low and a high word, and whether the position is odd.

    The position is the number of an element in the whole tensor in row-major order. JAX has no
    64-bit integers by default, so the position is computed in words of 32 bits.

    Args:
        index: The index of the elements along each axis, uint32; these arrays broadcast.
        whole: The shape of the whole tensor.

    Returns:
        Three int32 arrays.

    Example:
        >>> index = [jnp.uint32(2**18 - 1), jnp.uint32(2**18 - 2)]
        >>> [int(x) for x in pair_of(index, (2**18, 2**18))]
        [-1, 7, 0]
    """
    low, high, count = jnp.uint32(0), jnp.uint32(0), 1
    for size, i in zip(whole, index, strict=True):
        count *= size
        if count <= 2**32:
            low = low * size + i
        else:
            low, carry = _times(low, size)
            low = low + i
            high = high * size + carry + (low < i)
    pair = (low >> 1) | (high << 31), high >> 1, low & 1
    low, high, odd = (jax.lax.bitcast_convert_type(x, jnp.int32) for x in pair)
    return low, high, odd


def _times(x: Any, factor: int) -> tuple[Any, Any]:
    """Returns the low and the high word of the product of a uint32 and a number below 2^32."""
    upper, lower = factor >> 16, factor & 0xFFFF
    a = (x & 0xFFFF) * lower
    b = (x >> 16) * lower + (a >> 16)
    c = (x & 0xFFFF) * upper + (b & 0xFFFF)
    return (c << 16) | (a & 0xFFFF), (x >> 16) * upper + (b >> 16) + (c >> 16)


def _random_bits(shape: Shape, step: Any, layout: LeafLayout) -> jax.Array:
    """Returns the random bits for the elements of a leaf, or of the piece on this device."""
    whole = _whole(shape, layout)
    index = []
    for axis, length in enumerate(shape):
        i = jnp.arange(length, dtype=jnp.uint32)
        if length != whole[axis]:
            i = i + length * jnp.asarray(jax.lax.axis_index(layout.along[axis]), jnp.uint32)
        index.append(i.reshape(-1, *(1,) * (len(shape) - axis - 1)))
    start = jnp.asarray(step, jnp.int32)
    return rounding.random_bits(rounding.FOR_MOMENT, start, *pair_of(index, whole))


def _whole(shape: Shape, layout: LeafLayout) -> Shape:
    """Returns the shape of the real numbers of the whole leaf, for the shape of a piece."""
    return *layout.whole, *shape[len(layout.whole) :]


def _pad(rows: Any, count: int) -> Any:
    """Appends zeros along the last axis."""
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, count)])
