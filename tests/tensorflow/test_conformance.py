"""Every adapter of the TensorFlow class passes the cases of the conformance table."""

import pytest

from novograd.conformance import CASES, MismatchError, check
from novograd.conformance.tensorflow import ADAPTERS, SessionAdapter
from tests.helpers.conformance import checks

# Graphs take longer than eager execution, but of all adapters a plain Session is the most used.
SLOW = [name for name in ADAPTERS if name != "Session"]


@pytest.mark.parametrize(("adapter", "case"), checks(ADAPTERS, CASES, SLOW))
def test_the_adapter_passes_the_case(adapter, case):
    check(adapter, case)


def test_the_class_uses_the_formula_of_the_rule(wrong_rule):
    """A wrong rule makes the class wrong: it has no second copy of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(SessionAdapter, CASES[0])
