"""Every way to run the PyTorch class, through every case of the table."""

import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.torch import (
    ADAPTERS,
    CompiledAdapter,
    ForeachAdapter,
    FusedAdapter,
    SingleTensorAdapter,
)

# Compiling takes seconds. These two have all that compiles otherwise: counts, and each place of c
# and d in the linear pass.
COMPILED = ("variant apex", "variant pytorch-optimizer-3")
RUNS = [(adapter, case, name) for case in CASES for name, adapter in ADAPTERS.items()]
RUNS += [
    (adapter, case, name)
    for case in VARIANT_CASES
    for name, adapter in ADAPTERS.items()
    if not issubclass(adapter, CompiledAdapter)
    or (name == "foreach, compiled" and case.name in COMPILED)
]


@pytest.mark.parametrize(
    ("adapter", "case"),
    [pytest.param(adapter, case, id=f"{case.name}-{name}") for adapter, case, name in RUNS],
)
def test_conformance(adapter, case):
    check(adapter, case)


@pytest.mark.parametrize("adapter", [SingleTensorAdapter, ForeachAdapter, FusedAdapter])
def test_the_formula_is_the_rules(wrong_rule, adapter):
    """A wrong rule makes the class wrong: it holds no second copy of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(adapter, CASES[0])
