"""A clone builds a source distribution, and wheels with and without a compiler."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
import yaml

import novograd

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
STEP = """
import ctypes, sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, sys.argv[1])
import novograd.native as native
from novograd import rule
from novograd.variants import DOCUMENTED
assert native.__file__.startswith(sys.argv[1]), native.__file__
def address(*x):
    array = (ctypes.c_float * len(x))(*x)
    arrays.append(array)
    return ctypes.addressof(array)
arrays = []
layers = native.kernels.Tensors(
    kinds=[native.kernels.KINDS.index(("float32",) * 3)], grids=[(1, 1, 2, 2)], scales=[1.0],
    weights=[address(1, 2)], gradients=[address(3, 4)], moments=[address(0, 0)], vs=[address(0)],
)
numbers = rule.numbers(
    DOCUMENTED, lr=0.5, beta1=0.9, beta2=0.5, epsilon=0.0, weight_decay=0.0, grad_averaging=False
)
layers.step(native.arguments(numbers), 2)
assert [round(x, 6) for x in arrays[0]] == [0.7, 1.6], list(arrays[0])
"""
NO_KERNELS = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
import novograd.native as native
assert native.__file__.startswith(sys.argv[1]), native.__file__
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not native.usable()
assert "not installed" in str(caught[0].message)
"""


def test_the_citation_has_the_version_and_the_licence_of_the_package(request):
    citation = yaml.safe_load((request.config.rootpath / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == novograd.__version__
    assert citation["license"] == metadata.metadata("novograd-optimizer")["License-Expression"]
    assert {"cff-version", "title", "message", "authors"} <= {*citation}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, request):
    """Builds a source distribution with the hook that every installer calls."""
    folder = tmp_path_factory.mktemp("sdist")
    program = "import sys, scikit_build_core.build as build; build.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, folder], check=True, cwd=request.config.rootpath)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def wheel_of(sdist, folder, **environment):
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sdist],
        check=True,
        env=os.environ | environment,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_installed(wheel, folder, program):
    """Runs a program in a process that sees only the wheel: no other package and no compiler."""
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, folder / "installed"],
        check=True,
        cwd=folder,
        env={"PATH": ""},
    )


@pytest.mark.full  # it compiles the native module, which the editable installation has done already
def test_a_wheel_with_the_kernels_needs_no_compiler_to_run(sdist, tmp_path):
    compiler = tmp_path / "c++"  # without optimization, which other tests use
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("c++")} "$@" -O0\n')
    compiler.chmod(0o755)
    wheel = wheel_of(sdist, tmp_path, CXX=str(compiler))
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("novograd/_native.") and name.endswith(".so") for name in names)
    assert "novograd/compare/tasks/data/LICENSE-MNI152.txt" in names
    assert "ai4med/libs/optimizers/__init__.py" in names
    assert not [name for name in names if "csrc" in name]
    run_installed(wheel, tmp_path, STEP)


def test_without_a_compiler_everything_but_the_kernels_is_installed(sdist, tmp_path):
    wheel = wheel_of(sdist, tmp_path, CXX=str(tmp_path / "no-compiler"))
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    run_installed(wheel, tmp_path, NO_KERNELS)
