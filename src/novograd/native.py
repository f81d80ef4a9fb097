"""The native CPU kernels (``csrc/``), for the bindings: whether they are there, and their rule.

The kernels know no NovoGrad. They compute a layer's sum of squares, its scalars as the numbers of a
``Rule`` say, and the linear pass with those. ``rule_of`` makes these of the numbers of
``novograd.rule``.
"""

import functools
import math
import os
import warnings
from typing import Any, NamedTuple

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


class Rule(NamedTuple):
    """How a layer's scalars follow from ``s``, the sum of the squares of its gradient.

    With ``norm = sqrt(correction*v + inside) + outside``, or without the root if ``root`` is 0::

        v = keep*v + mix*s                        first*s while v is exactly 0
        push = (a + a_by_norm/norm)*g + b*w
        m = beta1*m + push
        w = c*w - (d + d_by_norm/norm)*m          nesterov: beta1*m + push in the place of m

    The fields are in the order in which the kernels take them; the last three are 0 or 1.

    Attributes:
        beta1: Decay rate of the moment.
        keep: What ``v`` keeps of itself.
        mix: What ``v`` takes of ``s``.
        first: The same while there is no history.
        correction: Factor of ``v`` under the root, as of Adam's correction of its bias.
        inside: Added under the root; with neither epsilon, the smallest normal number.
        outside: Added to the root.
        root: Whether there is a root.
        a: Factor of the gradient.
        a_by_norm: The same, to be divided by the norm.
        b: Factor of the weights in the moment.
        c: Factor of the weights.
        d: Factor of the moment in the weights.
        d_by_norm: The same, to be divided by the norm.
        wake: If 0, a layer without history takes no ``b`` in a step whose gradient is 0.
        nesterov: Whether the weights take Nesterov's look-ahead step.
        skip_nonfinite: Whether a layer is left untouched if its ``s`` is not finite.
        increment: Whether to compute what is to be added to the weights instead of these.
    """

    beta1: Any
    keep: Any
    mix: Any
    first: Any = 1.0
    correction: Any = 1.0
    inside: Any = 0.0
    outside: Any = 0.0
    root: Any = 1.0
    a: Any = 0.0
    a_by_norm: Any = 0.0
    b: Any = 0.0
    c: Any = 1.0
    d: Any = 1.0
    d_by_norm: Any = 0.0
    wake: Any = 1.0
    nesterov: Any = 0.0
    skip_nonfinite: Any = 0.0
    increment: Any = 0.0


def rule_of(
    numbers: Numbers,
    *,
    nesterov: bool = False,
    skip_nonfinite: bool = False,
    increment: bool = False,
) -> Rule:
    """Returns the numbers of ``novograd.rule`` as the kernels take them.

    Example:
        >>> from novograd import rule
        >>> from novograd.variants import DOCUMENTED
        >>> numbers = rule.numbers(
        ...     DOCUMENTED, lr=0.5, beta1=0.75, beta2=0.5, epsilon=1.0, weight_decay=0.5,
        ...     grad_averaging=True,
        ... )
        >>> rule_of(numbers).keep, rule_of(numbers).a_by_norm, rule_of(numbers).b
        (0.5, 0.125, 0.0625)
    """
    by_gradient = numbers.normalises == "gradient"
    return Rule(
        beta1=numbers.beta1,
        keep=numbers.keep,
        mix=numbers.mix,
        first=numbers.first,
        correction=numbers.correction,
        inside=numbers.inside,
        outside=numbers.outside,
        root=float(numbers.power == 0.5),
        a=0.0 if by_gradient else numbers.a,
        a_by_norm=numbers.a if by_gradient else 0.0,
        b=numbers.b,
        c=numbers.c,
        d=numbers.d if by_gradient else 0.0,
        d_by_norm=0.0 if by_gradient else numbers.d,
        wake=numbers.wake,
        nesterov=float(nesterov),
        skip_nonfinite=float(skip_nonfinite),
        increment=float(increment),
    )


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
