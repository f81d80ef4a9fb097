"""How large the steps of each variant are, and so by what to change a learning rate.

While the gradient stays what it is and nothing decays, the weights move along ``g/|g|``: by
``first*lr`` in the first step, and by ``last*lr`` in the steps after many. With epsilon left out,
both depend on the betas and the switches alone; docs/variants.md derives them.
"""

from typing import NamedTuple

from novograd import variants
from novograd.hyperparameters import check_flag, check_number
from novograd.variants import DOCUMENTED, Variant


class StepSizes(NamedTuple):
    """Of the first step and of those after many, in units of the learning rate."""

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

    Of variants with the norm "inf", ``|g|`` is the largest element.

    Args:
        variant: A name, or a record.
        beta1: Decay rate of the moment; this and the next are by default the variant's own.
        beta2: Decay rate of ``v``.
        grad_averaging: Whether what enters the moment is multiplied by ``1 - beta1``.

    Raises:
        TypeError: If an argument has a type not named above.
        ValueError: If there is no such variant, or a beta is outside [0, 1).

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
    first = share if chosen.averages_first else 1.0
    if chosen.doubles_first:
        first += beta1
    if chosen.start == "never" and chosen.averages:
        first /= 1 - beta2 if chosen.norm == "inf" else (1 - beta2) ** 0.5
    if chosen.bias_correction is not None:
        first *= (1 - beta2) ** 0.5 / (1 - beta1)
    return StepSizes(first, share / (1 - beta1))


def rate_factors(
    variant: str | Variant,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    grad_averaging: bool | None = None,
) -> StepSizes:
    """Returns by what to multiply a learning rate for the documented rule to take steps as large.

    The documented rule is used with its own defaults.

    Args:
        variant: The variant with which the learning rate was chosen.
        beta1: What was used with it, as the next two: by default its own defaults.
        beta2: See ``step_sizes``.
        grad_averaging: See ``step_sizes``.

    Raises:
        TypeError: If an argument has a type not named above.
        ValueError: If there is no such variant, or a beta is outside [0, 1).

    Example:
        >>> first, last = rate_factors("optax", beta1=0.9)
        >>> print(f"{first:g}, {last:g}")
        1, 0.5
    """
    theirs = step_sizes(variant, beta1=beta1, beta2=beta2, grad_averaging=grad_averaging)
    ours = step_sizes()
    return StepSizes(theirs.first / ours.first, theirs.last / ours.last)
