"""Every way to run the PyTorch class, through the cases of the table."""

import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.torch import (
    ADAPTERS,
    CompiledAdapter,
    ForeachAdapter,
    FusedAdapter,
    SingleTensorAdapter,
)
from tests.helpers.conformance import checks

COMPILED = [name for name, adapter in ADAPTERS.items() if issubclass(adapter, CompiledAdapter)]


# These variants have all that compiles otherwise: counts, and each place of c and d in the step.
VARIANTS = ["apex", "pytorch-optimizer-3"]


@pytest.mark.parametrize(
    ("adapter", "case"), checks(ADAPTERS, [*CASES, *VARIANT_CASES], COMPILED, VARIANTS)
)
def test_conformance(adapter, case):
    check(adapter, case)


@pytest.mark.parametrize("adapter", [SingleTensorAdapter, ForeachAdapter, FusedAdapter])
def test_the_formula_is_the_rules(wrong_rule, adapter):
    """A wrong rule makes the class wrong: it holds no second copy of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(adapter, CASES[0])
