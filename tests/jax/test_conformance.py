"""Every adapter of the transformation passes the cases of the conformance table."""

import jax
import pytest

from novograd.conformance import CASES, MOMENT_CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.jax import ADAPTERS, MOMENTS
from tests.helpers.conformance import checks

# Every adapter compiles for each case.
SLOWEST = [name for name in ADAPTERS if "eager" in name]  # compiles each operation
SLOW = [name for name in ADAPTERS if name not in SLOWEST]
# These variants have all that compiles otherwise: counts, each place of c and d in the step, the
# largest element, the largest second moment, and rows.
VARIANTS = ["apex-inf", "nvidia-amsgrad", "nvidia-decoupled", "pytorch-optimizer-3", "rows"]
OTHER_MOMENTS = [case for case in MOMENT_CASES if case.moment in MOMENTS]


@pytest.mark.parametrize(
    ("adapter", "case"),
    checks(ADAPTERS, [*CASES, *OTHER_MOMENTS, *VARIANT_CASES], SLOW, VARIANTS, SLOWEST),
)
def test_the_adapter_passes_the_case(adapter, case):
    check(adapter, case)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_the_transformation_uses_the_formula_of_the_rule(adapter, wrong_rule):
    """A wrong rule makes the transformation wrong: it has no second copy of the coefficients."""
    jax.clear_caches()  # drop steps that were compiled with the right rule
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(adapter, CASES[0])
    jax.clear_caches()
