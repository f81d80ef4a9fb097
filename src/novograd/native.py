"""The native CPU kernels (``csrc/``): whether they are installed, and their arguments.

The kernels do not know the variants. They compute the squared norm of a layer, its coefficients
from the numbers of ``novograd.rule``, and the linear pass.
"""

import functools
import math
import os
import warnings
from typing import Any

from novograd.rule import Numbers

try:
    from novograd import _native as kernels  # pyright: ignore[reportMissingModuleSource]
except ImportError as error:  # installed without a C++ compiler
    kernels: Any = None
    PROBLEM: str | None = f"the native kernels of novograd are not installed ({error})"
else:
    PROBLEM = None


# In elements. With shorter pieces, most of the memory that the CPU reads would belong to the gaps.
SHORTEST_PIECE = 16


def arguments(
    numbers: Numbers,
    *,
    nesterov: bool = False,
    skip_nonfinite: bool = False,
    increment: bool = False,
) -> tuple[Any, ...]:
    """Returns the numbers of a step in the order that the kernels expect.

    Args:
        numbers: The numbers of the variant and its hyperparameters.
        nesterov: Whether to use Nesterov momentum.
        skip_nonfinite: Whether a layer stays unchanged if its ``s`` is not finite.
        increment: Whether to compute the change of the weights instead of the new weights.

    Example:
        >>> from novograd import rule
        >>> from novograd.variants import DOCUMENTED
        >>> numbers = rule.numbers(
        ...     DOCUMENTED, lr=0.5, beta1=0.75, beta2=0.5, epsilon=1.0, weight_decay=0.5,
        ...     grad_averaging=True,
        ... )
        >>> arguments(numbers, nesterov=True)[-3:]
        (1.0, 0.0, 0.0)
    """
    return (*numbers, float(nesterov), float(skip_nonfinite), float(increment))


def grid(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    v_shape: tuple[int, ...],
    *,
    columns: bool = False,
) -> tuple[int, int, int, int] | None:
    """Returns where the kernels find the layers of a tensor, or None if they cannot find them.

    Args:
        shape: Shape of the weights.
        strides: Strides of the weights, in elements.
        v_shape: Shape of the second moment, see ``novograd.layers``. ``Split`` is not supported:
            pass each part of it as a separate tensor.
        columns: Whether the caller's kernels support layers that have one element in each piece,
            such as the columns of a matrix.

    Returns:
        ``(runs, layers, run, stride)``: layer ``j`` consists of ``runs`` pieces of memory. Each
        has ``run`` elements, and piece ``i`` starts at ``i*stride + j*run``.

    Example:
        >>> grid((8, 3, 5), (15, 5, 1), ()), grid((8, 3, 5), (15, 5, 1), (8, 1, 1))
        ((1, 1, 120, 120), (1, 8, 15, 120))
        >>> grid((8, 3, 64), (192, 64, 1), (1, 3, 1)), grid((8, 3, 64), (192, 64, 1), (1, 1, 64))
        ((8, 3, 64, 192), None)
        >>> grid((8, 3, 64), (192, 64, 1), (1, 1, 64), columns=True)
        (24, 64, 1, 64)
    """
    if math.prod(shape) == 0:
        return 1, math.prod(v_shape), 0, 0
    kept = [size != 1 for size in v_shape] if v_shape else [False] * len(shape)
    axes = [axis for axis in zip(strides, shape, kept, strict=True) if axis[1] != 1]
    ordered = [stride for stride, _, is_kept in axes if is_kept]
    if ordered != sorted(ordered, reverse=True):
        return None  # the layers lie in another order than their v
    axes.sort()
    # From the innermost axis outwards: the elements of a piece, the layers, the pieces.
    run, reach = _merged(axes, False, 1)
    layers, reach = _merged(axes, True, reach)
    if not axes:
        return 1, layers, run, reach
    stride = axes[0][0]
    runs, _ = _merged(axes, False, stride)
    piece = layers if columns and run == 1 else run
    return (runs, layers, run, stride) if piece >= SHORTEST_PIECE and not axes else None


def _merged(axes: list[tuple[int, int, bool]], kept: bool, reach: int) -> tuple[int, int]:
    """Removes axes without gaps between them from a list; returns their size and their reach."""
    count = 1
    while axes and axes[0][0] == reach and axes[0][2] is kept:
        _, size, _ = axes.pop(0)
        count *= size
        reach *= size
    return count, reach


def usable() -> bool:
    """Whether the kernels are installed; if not, the first call gives a RuntimeWarning."""
    if kernels is None:
        _warn_once()
    return kernels is not None


def require() -> None:
    """Checks that the kernels are installed, for ``fused=True``.

    Raises:
        RuntimeError: If they are not installed.
    """
    if kernels is None:
        raise RuntimeError(f"fused=True is not possible: {PROBLEM}")


def processors() -> int:
    """Returns how many processors this process may use.

    Example:
        >>> processors() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        f"{PROBLEM}; a slower backend is used. To build the kernels, install novograd-optimizer "
        "again where a C++20 compiler is available.",
        RuntimeWarning,
        stacklevel=2,
    )
