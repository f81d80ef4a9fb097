"""The functions of ``novograd.rounding`` for the Triton kernels: random bits, and bfloat16.

A key is a hash of the purpose and the step. The number of an element is its position in the whole
tensor.
"""

# Triton compiles these functions as its own language.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false
import triton
import triton.language as tl

from novograd import rounding

FOR_MOMENT = tl.constexpr(rounding.FOR_MOMENT % 2**32)
FOR_WEIGHTS = tl.constexpr(rounding.FOR_WEIGHTS % 2**32)
# Rows count as no longer than this, so that 32 bits are enough for places near their ends.
LONGEST = tl.constexpr(2**30)


@triton.jit
def moment_key(step):
    """Returns the key of a momentum buffer in int8."""
    return _mixed(step.to(tl.int64).to(tl.uint32) ^ FOR_MOMENT)


@triton.jit
def weights_key(step):
    """Returns the key of bfloat16 weights."""
    return _mixed(step.to(tl.int64).to(tl.uint32) ^ FOR_WEIGHTS)


@triton.jit
def bits_of_blocks(key, numbers, like, EVEN: tl.constexpr):
    """Returns the bits of blocks along the last axis, in the shape of ``like``.

    ``numbers`` are those of the first elements. ``EVEN`` blocks start at a multiple of 128, and
    have at most as many elements: then one word serves two neighbours.
    """
    size: tl.constexpr = like.shape[-1]
    numbers = tl.expand_dims(numbers, -1)
    if EVEN:
        pairs = numbers >> 1
        lows = pairs.to(tl.uint32) + tl.arange(0, size // 2).to(tl.uint32)
        bits = _halves(_mixed(lows ^ _high_key(key, pairs)), like)
    else:
        bits = bits_of(key, numbers + tl.arange(0, size))
    return bits


@triton.jit
def bits_of_pairs(key, number, pairs, like):
    """Returns the bits of the elements ``number + 2*pairs`` and their next neighbours.

    ``number`` is even, and ``pairs`` are below 2^30. The result has the shape of ``like``.
    """
    return _halves(_words_in_order(key, number >> 1, pairs.to(tl.uint32)), like)


@triton.jit
def bits_in_order(key, number, at):
    """Returns the bits of the elements ``number + at``; ``at`` is below 2^30."""
    places = (number & 1).to(tl.uint32) + at.to(tl.uint32)
    return _half(_words_in_order(key, number >> 1, places >> 1), places)


@triton.jit
def bits_of(key, numbers):
    """Returns the bits of the elements with the given numbers, which have 64 bits."""
    pairs = numbers >> 1
    return _half(_mixed(pairs.to(tl.uint32) ^ _high_key(key, pairs)), numbers.to(tl.uint32))


@triton.jit
def numbers_with_gaps(first, begin, at, length, gap):
    """Returns the numbers of elements in rows of a part, with gaps between these in the whole.

    ``first`` is the number of the part's first element. The elements have the places ``begin + at``
    in the part; ``at`` is below 2^30.
    """
    row = begin // length
    # The end of a long row is enough to find out which elements belong to the next row.
    cut = tl.maximum(length - LONGEST, 0)
    within = tl.maximum(begin - row * length - cut, 0).to(tl.int32)
    rows = (within + at) // (length - cut).to(tl.int32)
    return first + begin + row * gap + at + rows * gap


@triton.jit
def to_bfloat16(x, bits):
    """Rounds float32 to numbers that bfloat16 holds exactly; infinity and NaN stay."""
    rounded = ((x.to(tl.uint32, bitcast=True) + bits) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < float("inf"), rounded, x)


@triton.jit
def _words_in_order(key, first, places):
    """Returns the words of the pairs ``first + places``."""
    low = first.to(tl.uint32)
    lows = low + places
    # A sum beyond 32 bits has the next high word.
    return _mixed(lows ^ tl.where(lows < low, _high_key(key, first + 2**32), _high_key(key, first)))


@triton.jit
def _high_key(key, pairs):
    """Returns the keys of pairs, which have the high words of their numbers."""
    return _mixed((pairs >> 32).to(tl.uint32) ^ key)


@triton.jit
def _halves(words, like):
    """Returns both halves of each word, as neighbours."""
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), like.shape)


@triton.jit
def _half(words, numbers):
    """Returns the half of each word that belongs to an element: the upper one if it is odd."""
    return tl.where(numbers & 1 == 0, words & 0xFFFF, words >> 16)


@triton.jit
def _mixed(x):
    """Returns 32-bit words that look random: a function of C. Wellons' hash-prospector."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0xD35A2D97
    return x ^ (x >> 15)
