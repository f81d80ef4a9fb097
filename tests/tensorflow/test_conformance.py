"""Every way to run the TensorFlow class, through the cases of the table."""

import pytest

from novograd.conformance import CASES, MismatchError, check
from novograd.conformance.tensorflow import ADAPTERS, SessionAdapter
from tests.helpers.conformance import checks

# XLA compiles for seconds. Two replicas take as long as two runs.
DEAR = ["function, XLA", "function, mirrored", "Session, mirrored"]


@pytest.mark.parametrize(("adapter", "case"), checks(ADAPTERS, CASES, DEAR))
def test_conformance(adapter, case):
    check(adapter, case)


def test_the_formula_is_the_rules(wrong_rule):
    """A wrong rule makes the class wrong: it holds no second copy of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(SessionAdapter, CASES[0])
