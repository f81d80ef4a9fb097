"""Every way to run the PyTorch class, through every case of the table."""

import pytest

from novograd.conformance import CASES, MismatchError, check
from novograd.conformance.torch import (
    ADAPTERS,
    ForeachAdapter,
    FusedAdapter,
    SingleTensorAdapter,
)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conformance(adapter, case):
    check(adapter, case)


@pytest.mark.parametrize("adapter", [SingleTensorAdapter, ForeachAdapter, FusedAdapter])
def test_the_formula_is_the_rules(wrong_rule, adapter):
    """A wrong rule makes the class wrong: it holds no second copy of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(adapter, CASES[0])
