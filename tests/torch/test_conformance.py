"""Every adapter of the PyTorch class passes the conformance table."""

import pytest

from novograd.conformance import (
    CASES,
    MOMENT_CASES,
    ROUNDING_CASES,
    VARIANT_CASES,
    MismatchError,
    check,
)
from novograd.conformance.torch import (
    ADAPTERS,
    COMPILED,
    ForeachAdapter,
    FusedAdapter,
    SingleTensorAdapter,
)
from tests.helpers.conformance import checks

# These variants have all that compiles otherwise: counts, and each place of c and d in the step.
VARIANTS = ["apex", "pytorch-optimizer-3"]


TABLE = [*CASES, *MOMENT_CASES, *ROUNDING_CASES, *VARIANT_CASES]
# These loop over layers in Python. Without --full they share a choice of the cases.
SLOW = {"single-tensor": SingleTensorAdapter, "foreach": ForeachAdapter}
OTHERS = {name: adapter for name, adapter in ADAPTERS.items() if name not in SLOW}


@pytest.mark.parametrize(
    ("adapter", "case"),
    [*checks(OTHERS, TABLE, COMPILED, VARIANTS), *checks(SLOW, TABLE, SLOW)],
)
def test_the_adapter_passes_the_case(adapter, case):
    check(adapter, case)


@pytest.mark.parametrize("adapter", [SingleTensorAdapter, ForeachAdapter, FusedAdapter])
def test_a_wrong_rule_makes_the_class_wrong(wrong_rule, adapter):
    """The class has no second copy of the formula of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(adapter, CASES[0])
