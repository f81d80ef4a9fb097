"""Every way to run the TensorFlow class, through the cases of the table that concern it."""

import pytest

from novograd.conformance import CASES, MismatchError, check
from novograd.conformance.cases import DTYPES
from novograd.conformance.tensorflow import ADAPTERS, SessionAdapter

EVERYTHING = "everything at once, float32, nesterov True"
# XLA compiles for seconds; these cases depend on how it computes. Two replicas take as long as two
# runs; these cases depend on where state is. ``novograd verify`` runs all of them.
NUMERICAL = [
    case.name
    for case in CASES
    if case.name in {*DTYPES, "full schedule", "layers", "zero first gradient", EVERYTHING}
    or "gradients of" in case.name
]
PLACED = [
    case.name
    for case in CASES
    if case.name in {"defaults", "bfloat16", "full schedule", "layers", EVERYTHING}
    or case.name.startswith(("no gradient", "reload"))
]
CHOSEN = {
    "function, XLA": NUMERICAL,
    "function, mirrored": PLACED,
    "Session, mirrored": PLACED,
}
RUNS = [
    pytest.param(adapter, case, id=f"{case.name}-{name}")
    for case in CASES
    for name, adapter in ADAPTERS.items()
    if case.name in CHOSEN.get(name, [case.name])
]


@pytest.mark.parametrize(("adapter", "case"), RUNS)
def test_conformance(adapter, case):
    check(adapter, case)


def test_the_formula_is_the_rules(wrong_rule):
    """A wrong rule makes the class wrong: it holds no second copy of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(SessionAdapter, CASES[0])
