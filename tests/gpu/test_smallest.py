"""The program for memory checkers finds no difference, also without a checker.

In the interpreter, most of its steps run in this process, where conftest.py makes them faster.
"""

import pytest

from novograd.torch.backends import triton
from tests.helpers.parameters import some
from tests.helpers.programs import run

if triton.INTERPRETED:
    from tests.gpu import smallest  # on a GPU, this import would change how torch gets memory

    # The kept cases have views at other addresses, loss scaling, a variant and random rounding.
    @pytest.mark.parametrize(
        "case", some(smallest.CASES, kept=[smallest.CASES[1], smallest.CASES[3]])
    )
    def test_small_steps_equal_those_of_foreach(case):
        smallest.check_steps(*case)

    def test_small_steps_with_known_norms_equal_those_of_foreach():
        smallest.check_known_norms()


@(pytest.mark.full if triton.INTERPRETED else lambda test: test)
def test_the_program_for_memory_checkers_finds_no_difference():
    assert run("tests.gpu.smallest") == "ok\n"
