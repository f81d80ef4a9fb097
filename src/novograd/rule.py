"""The NovoGrad rule: a norm, a few scalars, one linear pass.

Every NovoGrad ever published is the same three steps for each layer, in this order::

    s = sum of g^2                                 the caller's: the only reduction of the algorithm
    v = keep*v + mix*s                             second_moment: one number per layer
    m = beta1*m + a*g + b*w ;  w = c*w - d*m       linear_pass: one pass over memory

and what differs between them is a handful of ``numbers``. With those of the documented rule (NVIDIA
Clara Train 3.1, ``ai4med.libs.optimizers.NovoGrad``), ``keep = beta2``, ``mix = 1 - beta2``, and::

    m = beta1*m + lr*k*(g/sqrt(v + epsilon) + weight_decay*w) ;  w = w - m
    k = 1 - beta1 with grad_averaging, else 1

While the ``v`` of a layer is exactly 0, it becomes ``first*s`` (``first`` is 1).

Only plain operators are used: weights, gradients and scalars may be arrays or tensors of any
framework, or Python numbers. Nothing is modified in place and nothing is converted.
"""

from typing import Any, NamedTuple

from novograd.variants import Variant


class Numbers(NamedTuple):
    """What a step needs of a variant and its hyperparameters.

    With ``norm = (correction*v + inside)^power + outside``, the ``a`` or the ``d`` that it divides
    is the one in the linear pass.
    """

    beta1: Any
    keep: Any
    mix: Any
    first: Any
    correction: Any
    inside: Any
    outside: Any
    power: float
    a: Any
    b: Any
    c: Any
    d: Any
    normalises: str  # "gradient": the norm divides a; "moment": it divides d


class Coefficients(NamedTuple):
    """The scalars of ``linear_pass`` for one layer, or arrays of them for many layers."""

    a: Any
    b: Any
    c: Any
    d: Any


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
    is_first: Any = 1.0,
    bias: tuple[Any, Any] = (1.0, 1.0),
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
        is_first: 1.0 in the first step, else 0.0, for variants that count steps.
        bias: ``(1 - beta1^t, 1 - beta2^t)`` in step ``t``, for the same.

    Example:
        >>> from novograd.variants import DOCUMENTED
        >>> n = numbers(DOCUMENTED, lr=0.5, beta1=0.5, beta2=0.75, epsilon=1.0, weight_decay=0.5,
        ...             grad_averaging=True)
        >>> n.keep, n.mix, n.a, n.b
        (0.75, 0.25, 0.25, 0.125)
    """
    keep, mix = (beta2, 1 - beta2) if variant.averages else (0.0, 1.0)
    if variant.start == "step":
        keep, mix = keep * (1 - is_first), mix + (1 - mix) * is_first
    factor = 1 - beta1 if grad_averaging else 1.0
    if not variant.averages_first:
        factor = factor + (1 - factor) * is_first
    if variant.doubles_first:
        factor = factor + beta1 * is_first
    correction, rate = 1.0, lr
    if variant.bias_correction is not None:
        rate = rate / bias[0]
        if variant.bias_correction == "rate":
            rate = rate * bias[1] ** 0.5
        else:
            correction = 1 / (bias[1] ** 0.5 if variant.norm == "inf" else bias[1])
    entering, leaving = (rate * factor, 1.0) if variant.rate == "moment" else (factor, rate)
    decoupled = variant.decay == "decoupled"
    return Numbers(
        beta1=beta1,
        keep=keep,
        mix=mix,
        first=1.0 if variant.start == "zero" else mix,
        correction=correction,
        inside=floor + epsilon if variant.epsilon == "inside" else floor,
        outside=0.0 if variant.epsilon == "inside" else epsilon,
        power=1.0 if variant.norm == "inf" else 0.5,
        a=-entering if maximize else entering,
        b=0.0 if decoupled else entering * weight_decay,
        c=1 - lr * weight_decay if decoupled else 1.0,
        d=leaving,
        normalises=variant.normalises,
    )


def second_moment(s: Any, v: Any, numbers: Numbers) -> Any:
    """Returns the new ``v`` of layers with history, ``keep*v + mix*s``.

    Example:
        >>> from novograd.variants import DOCUMENTED
        >>> n = numbers(DOCUMENTED, lr=1.0, beta1=0.0, beta2=0.5, epsilon=0.0, weight_decay=0.0,
        ...             grad_averaging=False)
        >>> second_moment(4.0, 2.0, n)
        3.0
    """
    return numbers.keep * v + numbers.mix * s


def coefficients(v: Any, numbers: Numbers, scale: Any = 1.0) -> Coefficients:
    """Returns the scalars of the linear pass, given the new ``v``.

    ``scale`` multiplies what is normalised, where a weight's rows are its layers.

    Example:
        >>> from novograd.variants import DOCUMENTED
        >>> n = numbers(DOCUMENTED, lr=0.5, beta1=0.5, beta2=0.5, epsilon=1.0, weight_decay=0.5,
        ...             grad_averaging=True)
        >>> coefficients(3.0, n)
        Coefficients(a=0.125, b=0.125, c=1.0, d=1.0)
    """
    a, b, c, d = numbers.a, numbers.b, numbers.c, numbers.d
    norm = (numbers.correction * v + numbers.inside) ** numbers.power + numbers.outside
    if numbers.normalises == "gradient":
        a = scale * a / norm
    else:
        d = scale * d / norm
    return Coefficients(a, b, c, d)


def linear_pass(
    w: Any, m: Any, g: Any, scalars: Coefficients, *, beta1: Any, nesterov: bool = False
) -> tuple[Any, Any]:
    """Returns the new weights and moment, ``(w, m)``.

    Nesterov's form takes ``w`` one step further along the new moment (Sutskever et al., 2013):
    ``w = c*w - d*(beta1*m + a*g + b*w)``.

    Example:
        >>> linear_pass(1.0, 2.0, 4.0, Coefficients(a=0.25, b=0.5, c=1.0, d=1.0), beta1=0.5)
        (-1.5, 2.5)
    """
    a, b, c, d = scalars
    push = a * g + b * w
    m = beta1 * m + push
    return c * w - d * (beta1 * m + push if nesterov else m), m
