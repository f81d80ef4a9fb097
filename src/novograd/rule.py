"""The NovoGrad rule: a norm, a few scalars, one linear pass.

Every NovoGrad ever published is the same three steps for each layer, in this order::

    s = sum of g^2                                 the caller's: the only reduction of the algorithm
    v, (a, b, c, d) = advance(s, v, ...)           a few numbers per layer; v = keep*v + mix*s
    m = beta1*m + a*g + b*w ;  w = c*w - d*m       linear_pass: one pass over memory

and what differs between them is a handful of ``numbers``. With those of the documented rule (NVIDIA
Clara Train 3.1, ``ai4med.libs.optimizers.NovoGrad``), ``keep = beta2``, ``mix = 1 - beta2``, and::

    m = beta1*m + lr*k*(g/sqrt(v + epsilon) + weight_decay*w) ;  w = w - m
    k = 1 - beta1 with grad_averaging, else 1

While a layer's ``v`` is exactly 0, it becomes ``first*s`` (``first`` is 1). All values may be
arrays or tensors of any framework, or Python numbers; ``xp`` is the array library, for example
``numpy``. Nothing is modified in place and nothing is converted.
"""

import math
from typing import Any, NamedTuple

from novograd.variants import Variant


class Numbers(NamedTuple):
    """The variant and its hyperparameters, as numbers: all that a step needs of them.

    The kernels take them in this order. With ``norm = (correction*v + inside)^power + outside``,
    ``advance`` divides ``a`` by the norm, or ``d`` where ``normalises_moment`` is 1.
    Where ``wake`` is 0, no decay enters the moment of a layer that has no history: programs make a
    fresh optimizer's state by a step with zero gradients and lr 0.
    """

    beta1: Any
    keep: Any
    mix: Any
    first: Any
    correction: Any
    inside: Any
    outside: Any
    power: float
    normalises_moment: float
    a: Any
    b: Any
    c: Any
    d: Any
    wake: Any


class Coefficients(NamedTuple):
    """The scalars of ``linear_pass`` for one layer, or arrays for many."""

    a: Any
    b: Any
    c: Any
    d: Any


class Advanced(NamedTuple):
    """The result of ``advance``: the new second moments, and the scalars of the linear pass."""

    v: Any
    largest: Any
    scalars: Coefficients


def numbers(
    variant: Variant,
    *,
    lr: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    weight_decay: Any,
    grad_averaging: bool,
    maximize: bool = False,
    floor: float = 0.0,
    count: Any = 0.0,
    xp: Any = math,
) -> Numbers:
    """Returns the numbers of a variant.

    Args:
        variant: Which NovoGrad.
        lr: Learning rate; all hyperparameters may be arrays.
        beta1: Decay rate of the moment.
        beta2: Decay rate of ``v``.
        epsilon: Keeps the norm from 0, inside or outside the root.
        weight_decay: Factor of the weights.
        grad_averaging: Whether what enters the moment is multiplied by ``1 - beta1``.
        maximize: Whether to step along the gradient rather than against it.
        floor: Added to ``v`` so that without an epsilon 0/0 is 0: the smallest normal number.
        count: Number of steps taken before, as a float or a floating array.
        xp: The array library, for ``log`` and ``expm1``.

    Example:
        >>> from novograd.variants import DOCUMENTED
        >>> n = numbers(DOCUMENTED, lr=0.5, beta1=0.5, beta2=0.75, epsilon=1.0, weight_decay=0.5,
        ...             grad_averaging=True)
        >>> n.keep, n.mix, n.a, n.b
        (0.75, 0.25, 0.25, 0.125)
    """
    keep, mix = (beta2, 1 - beta2) if variant.averages else (0.0, 1.0)
    is_first = 0.0**count if variant.counts else 1.0  # 0^0 is 1
    if variant.start == "step":
        keep, mix = keep * (1 - is_first), mix + (1 - mix) * is_first
    factor = 1 - beta1 if grad_averaging else 1.0
    if not variant.averages_first:
        factor = factor + (1 - factor) * is_first
    if variant.doubles_first:
        factor = factor + beta1 * is_first
    correction, rate = 1.0, lr
    if variant.bias_correction is not None:
        rate = rate / _bias(beta1, count, xp)
        unbiased = _bias(beta2, count, xp)
        if variant.bias_correction == "rate":
            rate = rate * unbiased**0.5
        else:
            correction = 1 / (unbiased**0.5 if variant.norm == "inf" else unbiased)
    entering, leaving = (rate * factor, 1.0) if variant.rate == "moment" else (factor, rate)
    decoupled = variant.decay == "decoupled"
    decays = not (decoupled or (isinstance(weight_decay, float | int) and weight_decay == 0))
    return Numbers(
        beta1=beta1,
        keep=keep,
        mix=mix,
        first=1.0 if variant.start == "zero" else mix,
        correction=correction,
        inside=floor + epsilon if variant.epsilon == "inside" else floor,
        outside=0.0 if variant.epsilon == "inside" else epsilon,
        power=1.0 if variant.norm == "inf" else 0.5,
        normalises_moment=float(variant.normalises == "moment"),
        a=-entering if maximize else entering,
        b=0.0 if decoupled else entering * weight_decay,
        c=1 - lr * weight_decay if decoupled else 1.0,
        d=leaving,
        wake=lr if decays and variant.rate == "update" else 1.0,
    )


def _bias(beta: Any, count: Any, xp: Any) -> Any:
    """Returns ``1 - beta^(count + 1)``, with all digits in float32 too."""
    log = xp.log(beta) if not isinstance(beta, float) else math.log(beta) if beta else -math.inf
    return -xp.expm1((count + 1) * log)


def advance(
    s: Any, v: Any, numbers: Numbers, scale: Any = 1.0, largest: Any = None, *, xp: Any
) -> Advanced:
    """Returns the second moments of layers after a step, and the scalars of their linear pass.

    Args:
        s: What the gradients add to ``v``: squared norms, in the dtype of ``v``.
        v: Second moments before the step; 0 while a layer has no history.
        numbers: Those of the variant.
        scale: What the normalised gradients are multiplied by.
        largest: The largest second moments so far, for amsgrad.
        xp: The array library, for ``where`` and ``isfinite``.

    Example:
        >>> import numpy as np
        >>> from novograd.variants import DOCUMENTED
        >>> n = numbers(DOCUMENTED, lr=0.5, beta1=0.5, beta2=0.5, epsilon=0.0, weight_decay=0.0,
        ...             grad_averaging=False)
        >>> v, _, scalars = advance(np.array([16.0, 0.0]), np.array([2.0, 0.0]), n, xp=np)
        >>> v.tolist()
        [9.0, 0.0]
    """
    # TensorFlow 1 compares tensors by identity with ==, and by value with >.
    new = xp.where(v > 0, numbers.keep * v + numbers.mix * s, numbers.first * s)
    used = new if largest is None else xp.where(new < largest, largest, new)
    a, b, d = numbers.a, numbers.b, numbers.d
    norm = (numbers.correction * used + numbers.inside) ** numbers.power + numbers.outside
    a, d = (a, scale * d / norm) if numbers.normalises_moment else (scale * a / norm, d)
    if not isinstance(numbers.wake, float | int) or numbers.wake == 0:
        # 0*v has the dtype in which numbers become arrays.
        b = xp.where((v <= 0) & (new <= 0) & (numbers.wake == 0), 0.0 * v, 0.0 * v + b)
    # Where v leaves the range of its dtype, a is 0: the gradient counts for nothing.
    finite = xp.isfinite(new)
    kept = None if largest is None else xp.where(finite, used, largest)
    return Advanced(xp.where(finite, new, v), kept, Coefficients(a, b, numbers.c, d))


def linear_pass(
    w: Any, m: Any, g: Any, scalars: Coefficients, *, beta1: Any, nesterov: bool = False
) -> tuple[Any, Any]:
    """Returns the new weights and moment, ``(w, m)``.

    Nesterov's form (Sutskever et al., 2013) is ``w = c*w - d*(beta1*m + a*g + b*w)``.

    Example:
        >>> linear_pass(1.0, 2.0, 4.0, Coefficients(a=0.25, b=0.5, c=1.0, d=1.0), beta1=0.5)
        (-1.5, 2.5)
    """
    a, b, c, d = scalars
    push = a * g + b * w
    m = beta1 * m + push
    return c * w - d * (beta1 * m + push if nesterov else m), m
