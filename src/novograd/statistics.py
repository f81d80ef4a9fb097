"""What the state of an optimizer tells about a training: a few numbers for each parameter.

``novograd.torch.statistics``, ``novograd.jax.statistics`` and ``novograd.keras.statistics`` collect
the arrays. This module computes the numbers, with the coefficients of the rule.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from novograd import rule


class LayerStatistics(NamedTuple):
    """The statistics of a parameter after a step. Where it has several layers, they are means.

    Attributes:
        weight_norm: The Euclidean norm of the weights.
        root_v: The root of ``v``: about the norm of a layer's gradient. With several layers it is
            the root of the mean ``v``.
        learning_rate: The effective learning rate: the learning rate with which plain gradient
            descent would move the weights as far, if the gradient stayed the same. For most
            variants it is ``lr/root_v``, times ``1/(1 - beta1)`` without ``grad_averaging``.
        update_ratio: The length of the last update, divided by the norm of the weights. Decoupled
            weight decay does not count. It is infinite if all weights are 0.
        clipped: The share of the layers whose last gradient was shortened by the variant's
            ``clip``. It is NaN if this depends on a gradient that is not there any more.

    Example:
        >>> LayerStatistics(4.0, 0.5, 0.02, 0.001, 0.0).update_ratio
        0.001
    """

    weight_norm: float
    root_v: float
    learning_rate: float
    update_ratio: float
    clipped: float


class Sums(NamedTuple):
    """Sums over the layers of a part of a parameter: 0-d arrays, and the number of the layers."""

    weights: Any
    v: Any
    rates: Any
    updates: Any
    clipped: Any
    layers: int


def sums(
    weights: Any,
    momentum: Any,
    gradient: Any,
    s: Any,
    v: Any,
    largest: Any,
    numbers: rule.Numbers,
    *,
    scale: float,
    nesterov: bool,
    spread: Callable[[Any], Any] = lambda x: x,
    xp: Any,
) -> Sums:
    """Returns the sums for one part of a parameter after a step.

    Args:
        weights: The weights, real.
        momentum: The momentum buffer.
        gradient: The gradient of the step; None if it is not there any more. Then the update is
            without Nesterov's part of it.
        s: The values that ``v`` averages, of this gradient; None without a gradient.
        v: The second moments after the step.
        largest: The largest second moments so far, for amsgrad; else None.
        numbers: The numbers of the rule in this step.
        scale: Factor of the normalised gradients.
        nesterov: Whether the step had Nesterov momentum.
        spread: Repeats an array in the shape of ``v``, so that it broadcasts with the weights.
        xp: The array library.

    Example:
        >>> import numpy as np
        >>> from novograd.variants import DOCUMENTED
        >>> n = rule.numbers(DOCUMENTED, lr=0.5, beta1=0.5, beta2=0.5, epsilon=0.0,
        ...                  weight_decay=0.0, grad_averaging=False)
        >>> w, m, v = np.array([3.0, 4.0]), np.array([0.3, 0.4]), np.array(4.0)
        >>> found = sums(w, m, None, None, v, None, n, scale=1.0, nesterov=False, xp=np)
        >>> float(found.rates), float(found.updates)  # the update is m
        (0.5, 0.25)
    """
    # With these numbers, v stays as it is: the result has the coefficients of the step before.
    numbers = numbers._replace(keep=1.0, mix=0.0, first=0.0, wake=1.0)
    norms = 0.0 * v if s is None else s
    a, _, _, d = rule.advance(norms, v, numbers, scale, largest, xp=xp).scalars
    free = rule.advance(norms, v, numbers._replace(clip=0.0), scale, largest, xp=xp).scalars
    ones = 0.0 * v + 1.0
    rates = xp.abs(a * d) * ones
    update = momentum
    if nesterov and gradient is not None:
        update = numbers.beta1 * momentum + spread(a * ones) * gradient
    unknown = bool(numbers.clip) and s is None
    clipped = math.nan * ones if unknown else xp.where(rates < xp.abs(free.a * free.d), ones, 0 * v)
    return Sums(
        xp.sum(xp.square(weights)),
        xp.sum(v),
        xp.sum(rates) / (1 - numbers.beta1),
        xp.sum(xp.square(spread(d * ones) * update)),
        xp.sum(clipped),
        math.prod(v.shape),
    )


def added(parts: Iterable[Sums]) -> Sums:
    """Returns the sums of a parameter from the sums of its parts.

    Example:
        >>> added([Sums(1.0, 2.0, 3.0, 4.0, 0.0, 1), Sums(1.0, 2.0, 3.0, 4.0, 1.0, 2)])
        Sums(weights=2.0, v=4.0, rates=6.0, updates=8.0, clipped=1.0, layers=3)
    """
    return Sums(*map(sum, zip(*parts, strict=True)))


def of_parameter(totals: Sequence[float], layers: int) -> LayerStatistics:
    """Returns the statistics of a parameter.

    Args:
        totals: The sums of the parameter on the host, in the order of ``Sums``.
        layers: The number of the layers.

    Example:
        >>> of_parameter([25.0, 8.0, 1.0, 0.25, 1.0], 2)
        LayerStatistics(weight_norm=5.0, root_v=2.0, learning_rate=0.5, update_ratio=0.1, clipped=0.5)
    """  # noqa: E501
    weights, v, rates, updates, clipped = totals
    norm, layers = math.sqrt(weights), max(layers, 1)  # an empty parameter may have no layer
    return LayerStatistics(
        weight_norm=norm,
        root_v=math.sqrt(v / layers),
        learning_rate=rates / layers,
        update_ratio=math.sqrt(updates) / norm if norm else math.inf,
        clipped=clipped / layers,
    )
