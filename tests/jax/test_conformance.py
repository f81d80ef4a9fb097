"""Every way to run the transformation, through the cases of the table."""

import jax
import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.jax import ADAPTERS
from tests.helpers.conformance import checks


# Each compiles for each case: one program, or one for each operation.
@pytest.mark.parametrize(
    ("adapter", "case"), checks(ADAPTERS, [*CASES, *VARIANT_CASES], dear=ADAPTERS)
)
def test_conformance(adapter, case):
    check(adapter, case)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_the_formula_is_the_rules(adapter, wrong_rule):
    """A wrong rule makes the transformation wrong: it holds no second copy of the coefficients."""
    jax.clear_caches()  # of steps compiled with the right rule
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(adapter, CASES[0])
    jax.clear_caches()
