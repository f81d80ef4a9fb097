"""Triton's kernels, through the cases of the table."""

import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.torch import TritonAdapter
from novograd.torch.backends.triton import INTERPRETED
from tests.helpers.conformance import checks


# The interpreter takes seconds for a case; a GPU does not.
@pytest.mark.parametrize(
    ("adapter", "case"),
    checks(
        {"triton": TritonAdapter}, [*CASES, *VARIANT_CASES], dear=["triton"] if INTERPRETED else []
    ),
)
def test_conformance(adapter, case):
    check(adapter, case)


def test_the_formula_is_the_rules(wrong_rule):
    """A wrong rule makes the step wrong: the kernels hold no second copy of its coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(TritonAdapter, CASES[0])
