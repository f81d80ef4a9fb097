"""The Triton kernels pass the conformance table."""

import pytest

from novograd.conformance import (
    CASES,
    MOMENT_CASES,
    ROUNDING_CASES,
    VARIANT_CASES,
    MismatchError,
    check,
)
from novograd.conformance.torch import TritonAdapter
from novograd.torch.backends.triton import INTERPRETED
from tests.helpers.conformance import checks

TABLE = [*CASES, *MOMENT_CASES, *ROUNDING_CASES, *VARIANT_CASES]
# The interpreter needs seconds for a case; a GPU does not.
SLOW = ["triton"] if INTERPRETED else []
# Together, these variants have every value of every switch that changes the numbers of a kernel.
VARIANTS = [
    *("apex", "apex-inf", "flashlight", "nvidia-amsgrad"),
    *("openseq2seq", "pytorch-optimizer-3", "rows", "tfa"),
]


@pytest.mark.parametrize(
    ("adapter", "case"),
    checks({"triton": TritonAdapter}, TABLE, SLOW, VARIANTS),
)
def test_the_adapter_passes_the_case(adapter, case):
    check(adapter, case)


def test_a_wrong_rule_makes_the_kernels_wrong(wrong_rule):
    """The kernels have no second copy of the formula of the coefficients."""
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(TritonAdapter, CASES[0])
