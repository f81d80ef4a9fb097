"""The NovoGrad rule: a norm, a few scalars, one linear pass.

Every NovoGrad ever published is the same three steps for each layer, in this order::

    s = sum of g^2                                 the caller's: the only reduction of the algorithm
    v = beta2*v + (1 - beta2)*s                    second_moment: one number per layer
    m = beta1*m + a*g + b*w ;  w = c*w - d*m       linear_pass: one pass over memory

and what differs between them is how the scalars ``a, b, c, d`` follow from ``v``. The documented
rule (NVIDIA Clara Train 3.1, ``ai4med.libs.optimizers.NovoGrad``) is ``coefficients``::

    m = beta1*m + lr*k*(g/sqrt(v + epsilon) + weight_decay*w) ;  w = w - m
    k = 1 - beta1 with grad_averaging, else 1

A layer without history (``v`` is exactly 0) is updated with ``beta2 = 0``, so that ``v = s``.

Only plain operators are used: weights, gradients and scalars may be arrays or tensors of any
framework, or Python numbers. Nothing is modified in place and nothing is converted.
"""

from typing import Any, NamedTuple

BETA1 = 0.95
BETA2 = 0.98
EPSILON = 1e-8
WEIGHT_DECAY = 0.0
GRAD_AVERAGING = False


class Coefficients(NamedTuple):
    """The scalars of ``linear_pass`` for one layer, or arrays of them for many layers."""

    a: Any
    b: Any
    c: Any
    d: Any


def second_moment(s: Any, v: Any, beta2: Any) -> Any:
    """Returns the new average of the squared norm, ``beta2*v + (1 - beta2)*s``.

    Example:
        >>> second_moment(4.0, 2.0, beta2=0.5)
        3.0
    """
    return beta2 * v + (1 - beta2) * s


def coefficients(
    v: Any,
    *,
    lr: Any,
    beta1: Any,
    epsilon: Any,
    weight_decay: Any,
    grad_averaging: bool,
    scale: Any = 1.0,
) -> Coefficients:
    """Returns the scalars of the documented rule, given the new second moment ``v``.

    ``scale`` multiplies the normalised gradient, where a weight's rows are its layers.

    Example:
        >>> coefficients(
        ...     3.0, lr=0.5, beta1=0.5, epsilon=1.0, weight_decay=0.5, grad_averaging=True
        ... )
        Coefficients(a=0.125, b=0.125, c=1.0, d=1.0)
    """
    rate = lr * (1 - beta1) if grad_averaging else lr
    return Coefficients(a=scale * rate / (v + epsilon) ** 0.5, b=rate * weight_decay, c=1.0, d=1.0)


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
