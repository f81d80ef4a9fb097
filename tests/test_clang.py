"""Clang accepts the native sources. The other tests run what the compiler at hand makes of them."""

import subprocess
import sysconfig
from pathlib import Path

import clang.cindex
import nanobind
import pytest

CSRC = Path(__file__).parents[1] / "csrc"
SOURCES = sorted(CSRC.glob("*.cpp"))


@pytest.fixture(scope="module")
def system_folders():
    """The folders of the standard library."""
    done = subprocess.run(
        ["c++", "-E", "-x", "c++", "-", "-v"], input="", capture_output=True, text=True, check=True
    )
    return done.stderr.rpartition("search starts here:\n")[2].partition("End of")[0].split()


def problems(source, system_folders):
    """Returns the errors and warnings of Clang, for the loops without special instructions."""
    bindings = CSRC / "third_party", nanobind.include_dir(), sysconfig.get_path("include")
    arguments = ["-std=c++20", "-Wall", "-Wextra", "-DNOVOGRAD_KERNELS=baseline", f"-I{CSRC}"]
    for folder in (*bindings, *system_folders):
        arguments += ["-isystem", str(folder)]
    # Clang would look for its own headers. Those of GCC use functions that are deprecated.
    arguments += ["-nostdinc", "-Wno-deprecated-declarations"]
    read = clang.cindex.Index.create().parse(str(source), arguments)
    warning = clang.cindex.Diagnostic.Warning
    return [str(found) for found in read.diagnostics if found.severity >= warning]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_clang_compiles_the_source(source, system_folders):
    assert problems(source, system_folders) == []


def test_a_function_of_another_compiler_is_a_problem(tmp_path, system_folders):
    source = tmp_path / "source.cpp"
    source.write_text("int nearest(float x) { return __builtin_irintf(x); }\n")
    (found,) = problems(source, system_folders)
    assert "__builtin_irintf" in found
