"""The program for memory checkers runs, also without one."""

from tests.helpers.programs import run


def test_the_program_for_memory_checkers_finds_no_difference():
    assert run("tests.gpu.smallest") == "ok\n"
