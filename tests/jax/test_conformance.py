"""Every way to run the transformation, through every case of the table."""

import jax
import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.jax import ADAPTERS

# Compiling takes seconds. These variants have all that compiles otherwise: a count, amsgrad.
COMPILED = ("variant apex", "variant nvidia-amsgrad", "variant pytorch-optimizer-3")
RUNS = [(adapter, case, name) for case in CASES for name, adapter in ADAPTERS.items()]
RUNS += [
    (adapter, case, name)
    for case in VARIANT_CASES
    for name, adapter in ADAPTERS.items()
    if name.endswith("eager") or case.name in COMPILED
]


@pytest.mark.parametrize(
    ("adapter", "case"),
    [pytest.param(adapter, case, id=f"{case.name}-{name}") for adapter, case, name in RUNS],
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
