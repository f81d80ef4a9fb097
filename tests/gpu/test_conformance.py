"""Triton's kernels, through every case of the table."""

import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.torch import TritonAdapter


@pytest.mark.parametrize("case", [*CASES, *VARIANT_CASES], ids=lambda case: case.name)
def test_conformance(case):
    check(TritonAdapter, case)


def test_the_formula_is_the_rules(wrong_rule):
    """A wrong rule makes the step wrong: the kernels hold no second copy of its coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(TritonAdapter, CASES[0])
