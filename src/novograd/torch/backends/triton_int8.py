"""The functions of ``novograd.quantized`` for the Triton kernels: rounds blocks to 8 bits.

The last axis of a tensor here is a block, and the other axes are the blocks. Values for each block
have one axis less.
"""

# Triton compiles these functions as its own language.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false
import triton
import triton.language as tl

from novograd import quantized

LARGEST = quantized.LARGEST
# As in ``quantized.quantised``: a little less than 127, in units of the random bits.
BELOW_LARGEST = tl.constexpr(LARGEST * 2.0**16 - 1)
INVERSE_OF_LARGEST = tl.constexpr(1 / LARGEST)
SMALLEST = tl.constexpr(LARGEST * 2.0**-100)


@triton.jit
def dequantised(q, scales, dtype: tl.constexpr):
    """Returns the values of blocks."""
    return q.to(dtype) * tl.expand_dims(scales.to(dtype), -1)


@triton.jit
def quantised(m, bits):
    """Returns the whole numbers of blocks, and their scales, from 16 random bits an element."""
    # The largest of whole numbers is NaN if there is a NaN; the largest of floats need not be.
    magnitudes = tl.abs(m).to(tl.float32).to(tl.int32, bitcast=True)
    most = tl.max(magnitudes, axis=-1).to(tl.float32, bitcast=True)
    finite = most < float("inf")
    used = finite & (most > SMALLEST)
    inverse = tl.where(used, BELOW_LARGEST / tl.where(used, most, 1.0), 0.0).to(m.dtype)
    # NaN becomes 0 here.
    exact = tl.floor(m * tl.expand_dims(inverse, -1) + 0.5).to(tl.int32)
    scales = tl.where(used, most * INVERSE_OF_LARGEST, 0.0)
    return ((exact + bits.to(tl.int32)) >> 16).to(tl.int8), tl.where(finite, scales, float("nan"))
