"""The native CPU kernels (``csrc/``), for the bindings: whether they exist and their arguments.

The kernels know no variant. They compute the sum of squares of a layer, its scalars by the numbers
of ``novograd.rule``, and the linear pass.
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


# In elements. Of shorter pieces with gaps between them most of what is read would be in vain.
SHORTEST_RUN = 16


def arguments(
    numbers: Numbers,
    *,
    nesterov: bool = False,
    skip_nonfinite: bool = False,
    increment: bool = False,
) -> tuple[Any, ...]:
    """Returns the numbers of a step in the order in which the kernels take them.

    Args:
        numbers: Those of the variant and its hyperparameters.
        nesterov: Whether the weights take Nesterov's look-ahead step.
        skip_nonfinite: Whether a layer is left untouched if its ``s`` is not finite.
        increment: Whether to compute what is to be added to the weights instead of these.

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
    shape: tuple[int, ...], strides: tuple[int, ...], v_shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Returns how the kernels find the layers of a tensor, or None if they cannot.

    Args:
        shape: Of the weights.
        strides: Of their memory, in elements.
        v_shape: Of their second moment, as of ``novograd.layers``; not that of ``Split``, whose
            parts are tensors of their own.

    Returns:
        ``(runs, layers, run, stride)``: layer ``j`` is ``runs`` pieces of memory of ``run``
        elements each, piece ``i`` of them at ``i*stride + j*run``.

    Example:
        >>> grid((8, 3, 5), (15, 5, 1), ()), grid((8, 3, 5), (15, 5, 1), (8, 1, 1))
        ((1, 1, 120, 120), (1, 8, 15, 120))
        >>> grid((8, 3, 64), (192, 64, 1), (1, 3, 1)), grid((8, 3, 64), (192, 64, 1), (1, 1, 64))
        ((8, 3, 64, 192), None)
    """
    if math.prod(shape) == 0:
        return 1, math.prod(v_shape), 0, 0
    kept = [size != 1 for size in v_shape] if v_shape else [False] * len(shape)
    axes = [axis for axis in zip(strides, shape, kept, strict=True) if axis[1] != 1]
    ordered = [stride for stride, _, is_kept in axes if is_kept]
    if ordered != sorted(ordered, reverse=True):
        return None  # the layers are in another order than their v
    axes.sort()
    # From the innermost axis outwards: the elements of a piece, the layers, the pieces.
    run, reach = _merged(axes, False, 1)
    layers, reach = _merged(axes, True, reach)
    if not axes:
        return 1, layers, run, reach
    stride = axes[0][0]
    runs, _ = _merged(axes, False, stride)
    return (runs, layers, run, stride) if run >= SHORTEST_RUN and not axes else None


def _merged(axes: list[tuple[int, int, bool]], kept: bool, reach: int) -> tuple[int, int]:
    """Takes axes without gaps between them off a list; returns their size and their reach."""
    count = 1
    while axes and axes[0][0] == reach and axes[0][2] is kept:
        _, size, _ = axes.pop(0)
        count *= size
        reach *= size
    return count, reach


def usable() -> bool:
    """Whether there are kernels; says once, as a RuntimeWarning, if there are none."""
    if kernels is None:
        _warn_once()
    return kernels is not None


def require() -> None:
    """Checks that there are kernels, for somebody who asked for them.

    Raises:
        RuntimeError: If there are none.
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
        f"{PROBLEM}; a slower implementation is used. Where there is a C++20 compiler, installing "
        "novograd-optimizer again builds them.",
        RuntimeWarning,
        stacklevel=2,
    )
