"""Rounding at random: the random bits of momentum buffers and weights, and bfloat16.

A number is rounded up or down. The nearer neighbour is more likely, so that the expected value is
exact, and changes that are too small for one step add up.

The random numbers are a hash of the step and of the element's position in the whole tensor. So they
are the same for any backend, any number of threads and any sharding. A momentum buffer and its
weights have different random numbers.

Arrays may be of NumPy, torch or JAX. ``xp`` is the library.
"""

from typing import Any

# Any two numbers that differ in the highest bit, so that no number of steps makes them equal. These
# are the first 32 bits of 1 divided by the golden ratio, as int32, and of pi - 3.
FOR_MOMENT = -0x61C88647
"""The ``purpose`` of the random bits of a momentum buffer in 8 bits."""

FOR_WEIGHTS = 0x243F6A88
"""The ``purpose`` of the random bits of bfloat16 weights."""


def random_bits(purpose: int, step: Any, low: Any, high: Any, odd: Any) -> Any:
    """Returns 16 random bits for each element, as int32 in 0..65535.

    All arithmetic is that of 32-bit integers, which wrap. A hash gives the bits of two neighbours.

    Args:
        purpose: ``FOR_MOMENT`` or ``FOR_WEIGHTS``.
        step: The number of steps before this one, int32.
        low: The low 32 bits of ``position // 2``, where the position is the number of the element
            in the whole real tensor in row-major order; int32.
        high: The high 32 bits of ``position // 2``, int32.
        odd: Whether the position is odd: 0 or 1.

    Example:
        >>> import numpy as np
        >>> position = np.arange(4, dtype=np.int32)
        >>> words = np.int32([7]), position >> 1, position * 0, position & 1
        >>> random_bits(FOR_MOMENT, *words).tolist()
        [43240, 43665, 14055, 65066]
    """
    pair = _mixed(low ^ _mixed(high ^ _mixed(step ^ purpose)))
    return (pair >> (16 * odd)) & 0xFFFF


def to_bfloat16(x: Any, bits: Any, *, xp: Any) -> Any:
    """Rounds float32 numbers to numbers that bfloat16 holds exactly.

    Args:
        x: The numbers, float32. An infinity or NaN stays as it is.
        bits: Their random bits.
        xp: The array library.

    Returns:
        The rounded numbers, as float32.

    Example:
        >>> import numpy as np
        >>> x = np.float32([1.001953125, 1.001953125, np.inf])
        >>> to_bfloat16(x, np.int32([49151, 49152, 65535]), xp=np).tolist()
        [1.0, 1.0078125, inf]
    """
    # The upper half of a float32 is a bfloat16. A number and its neighbours are next to each other
    # as integers too, so a carry from the lower half leads to the next bfloat16.
    rounded = ((x.view(xp.int32) + bits) & -0x10000).view(xp.float32)
    return xp.where(xp.isfinite(x), rounded, x)


def _mixed(x: Any) -> Any:
    """Mixes the bits of 32-bit integers; >> copies the sign of int32, so the sign is masked.

    The constants are those of Chris Wellons' hash-prospector, "16 21f0aaad 15 d35a2d97 15".
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x21F0AAAD
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x2CA5D269
    return x ^ ((x >> 15) & 0x1FFFF)
