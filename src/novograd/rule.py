"""The NovoGrad rule: a norm, a few scalars, one linear pass.

Every published NovoGrad does the same three things for each layer, in this order::

    s = sum of g^2                                 by the caller: the only reduction
    v, (a, b, c, d) = advance(s, v, ...)           a few numbers per layer; v = keep*v + mix*s
    m = beta1*m + a*g + b*w ;  w = c*w - d*m       linear_pass: one pass over memory

Variants differ only in a few ``numbers``. For the documented rule (NVIDIA Clara Train 3.1,
``ai4med.libs.optimizers.NovoGrad``), ``keep = beta2``, ``mix = 1 - beta2``, and::

    m = beta1*m + lr*k*(g/sqrt(v + epsilon) + weight_decay*w) ;  w = w - m
    k = 1 - beta1 with grad_averaging, else 1

While a layer's ``v`` is exactly 0, the new ``v`` is ``first*s`` (``first`` is 1). Values may be
arrays or tensors of any framework, or Python numbers; ``xp`` is the array library, for example
``numpy``. The functions do not modify values in place and do not convert them.
"""

import math
from typing import Any, NamedTuple

from novograd.variants import Variant


class Numbers(NamedTuple):
    """The variant and its hyperparameters as numbers, which is all that a step needs to know.

    The kernels expect this order. With ``norm = (max(correction*v, clip*s) + inside)^power +
    outside``, ``advance`` divides ``a`` by the norm, or ``d`` if ``normalises_moment`` is 1.
    If ``wake`` is 0, the momentum buffer of a layer without history gets no weight decay: programs
    create the state of a new optimizer by a step with zero gradients and lr 0.
    """

    beta1: Any
    keep: Any
    mix: Any
    first: Any
    correction: Any
    clip: float
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
    """The coefficients of ``linear_pass``: scalars for one layer, or arrays for many."""

    a: Any
    b: Any
    c: Any
    d: Any


class Advanced(NamedTuple):
    """The result of ``advance``: new second moments and the coefficients of the linear pass."""

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
        variant: The published form of NovoGrad.
        lr: Learning rate; all hyperparameters may be arrays.
        beta1: Decay rate of the momentum buffer.
        beta2: Decay rate of ``v``.
        epsilon: Added to the norm, inside or outside the root, so that the norm is not 0.
        weight_decay: Factor of the weights.
        grad_averaging: Whether the new term of ``m`` is multiplied by ``1 - beta1``.
        maximize: Whether to step along the gradient instead of against it.
        floor: Added to ``v`` to avoid 0/0 if epsilon is 0: the smallest normal number.
        count: Number of steps before this one, as a float or a floating array.
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
    longest = math.inf if variant.clip is None else variant.clip
    decoupled = variant.decay == "decoupled"
    decays = not (decoupled or (isinstance(weight_decay, float | int) and weight_decay == 0))
    return Numbers(
        beta1=beta1,
        keep=keep,
        mix=mix,
        first=1.0 if variant.start == "zero" else mix,
        correction=correction,
        clip=1 / longest if variant.norm == "inf" else (1 / longest) * (1 / longest),
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
    """Returns ``1 - beta^(count + 1)``, accurate to the last digits in float32 too."""
    log = xp.log(beta) if not isinstance(beta, float) else math.log(beta) if beta else -math.inf
    return -xp.expm1((count + 1) * log)


def advance(
    s: Any, v: Any, numbers: Numbers, scale: Any = 1.0, largest: Any = None, *, xp: Any
) -> Advanced:
    """Returns the new second moments of layers, and the coefficients of their linear pass.

    Args:
        s: The squared norms of the gradients, in the dtype of ``v``.
        v: Second moments before the step; 0 while a layer has no history.
        numbers: The numbers of the variant.
        scale: Factor of the normalised gradients.
        largest: The largest second moments so far, for amsgrad.
        xp: The array library, for ``where`` and ``isfinite``.

    Example:
        >>> import numpy as np
        >>> from novograd.variants import DOCUMENTED
        >>> n = numbers(DOCUMENTED, lr=0.5, beta1=0.5, beta2=0.5, epsilon=1e-8, weight_decay=0.0,
        ...             grad_averaging=False)
        >>> v, _, scalars = advance(np.array([16.0, 0.0]), np.array([2.0, 0.0]), n, xp=np)
        >>> v.tolist()
        [9.0, 0.0]
    """
    # In TensorFlow 1, == compares the identity of tensors, but > compares their values.
    new = xp.where(v > 0, numbers.keep * v + numbers.mix * s, numbers.first * s)
    used = new if largest is None else xp.where(new < largest, largest, new)
    a, b, d = numbers.a, numbers.b, numbers.d
    corrected = numbers.correction * used
    if numbers.clip:
        corrected = xp.where(corrected < numbers.clip * s, numbers.clip * s, corrected)
    norm = (corrected + numbers.inside) ** numbers.power + numbers.outside
    a, d = (a, scale * d / norm) if numbers.normalises_moment else (scale * a / norm, d)
    if not isinstance(numbers.wake, float | int) or numbers.wake == 0:
        # The term 0*v gives the numbers the dtype of v.
        b = xp.where((v <= 0) & (new <= 0) & (numbers.wake == 0), 0.0 * v, 0.0 * v + b)
    # If v overflows its dtype, a is 0: the step ignores the gradient.
    finite = xp.isfinite(new)
    kept = None if largest is None else xp.where(finite, used, largest)
    return Advanced(xp.where(finite, new, v), kept, Coefficients(a, b, numbers.c, d))


def linear_pass(
    w: Any, m: Any, g: Any, scalars: Coefficients, *, beta1: Any, nesterov: bool = False
) -> tuple[Any, Any]:
    """Returns the new weights and momentum buffer, ``(w, m)``.

    Nesterov's form (Sutskever et al., 2013) is ``w = c*w - d*(beta1*m + a*g + b*w)``.

    Example:
        >>> linear_pass(1.0, 2.0, 4.0, Coefficients(a=0.25, b=0.5, c=1.0, d=1.0), beta1=0.5)
        (-1.5, 2.5)
    """
    a, b, c, d = scalars
    push = a * g + b * w
    m = beta1 * m + push
    return c * w - d * (beta1 * m + push if nesterov else m), m
