"""How large the steps of each variant are, to convert learning rates between variants.

With a constant gradient and without weight decay, the weights move along ``g/|g|``: by ``first*lr``
in the first step, and by ``last*lr`` after many steps. With epsilon 0, both depend only on the
betas and the fields of the variant; docs/variants.md derives them.
"""

import math
from typing import NamedTuple

from novograd import variants
from novograd.hyperparameters import check_flag, check_number
from novograd.variants import DOCUMENTED, Variant


class StepSizes(NamedTuple):
    """Sizes of the first step and of a step after many, in units of the learning rate."""

    first: float
    last: float


def step_sizes(
    variant: str | Variant = DOCUMENTED,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    grad_averaging: bool | None = None,
) -> StepSizes:
    """Returns the step sizes of a variant under a constant gradient.

    For variants with the norm "inf", ``|g|`` is the largest element.

    Args:
        variant: A name, or a ``Variant``.
        beta1: Decay rate of the momentum buffer; by default the variant's.
        beta2: Decay rate of ``v``; by default the variant's.
        grad_averaging: Whether what is added to the momentum buffer is multiplied by ``1 - beta1``;
            by default the variant's.

    Raises:
        TypeError: If an argument has a type not named above.
        ValueError: If ``variant`` is not a known name, or a beta is outside [0, 1).

    Example:
        >>> step_sizes("optax", beta1=0.75)
        StepSizes(first=1.0, last=4.0)
        >>> step_sizes("optax", beta1=0.75, grad_averaging=True)
        StepSizes(first=0.25, last=1.0)
    """
    chosen = variants.get(variant)
    beta1 = check_number("beta1", chosen.beta1 if beta1 is None else beta1, below=1)
    beta2 = check_number("beta2", chosen.beta2 if beta2 is None else beta2, below=1)
    averaging = chosen.grad_averaging if grad_averaging is None else grad_averaging
    share = 1 - beta1 if check_flag("grad_averaging", averaging) else 1.0
    longest = math.inf if chosen.clip is None else chosen.clip
    first, length = share if chosen.averages_first else 1.0, 1.0
    if chosen.doubles_first:
        first += beta1
    if chosen.start == "never" and chosen.averages:
        length /= 1 - beta2 if chosen.norm == "inf" else (1 - beta2) ** 0.5
    if chosen.bias_correction is not None:
        first /= 1 - beta1
    if chosen.bias_correction == "rate":
        first *= (1 - beta2) ** 0.5
    elif chosen.bias_correction == "moments":
        length *= (1 - beta2) ** 0.5
    return StepSizes(first * min(length, longest), share / (1 - beta1) * min(1.0, longest))


def rate_factors(
    variant: str | Variant,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    grad_averaging: bool | None = None,
) -> StepSizes:
    """Returns factors for a variant's learning rate, so that the documented rule steps as far.

    The documented rule is used with its own defaults. The first factor makes its first step as
    large, the last factor its steps after many.

    Args:
        variant: The variant for which the learning rate was chosen.
        beta1: The beta1 used with that variant; by default the variant's.
        beta2: The beta2 used with that variant; by default the variant's.
        grad_averaging: The grad_averaging used with that variant; by default the variant's.

    Raises:
        TypeError: If an argument has a type not named above.
        ValueError: If ``variant`` is not a known name, or a beta is outside [0, 1).

    Example:
        >>> first, last = rate_factors("optax", beta1=0.9)
        >>> print(f"{first:g}, {last:g}")
        1, 0.5
    """
    theirs = step_sizes(variant, beta1=beta1, beta2=beta2, grad_averaging=grad_averaging)
    ours = step_sizes()
    return StepSizes(theirs.first / ours.first, theirs.last / ours.last)
