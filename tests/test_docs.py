"""Every example runs: the docstrings of all modules, and the Python blocks of README.md."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import novograd

README = Path(__file__).parent.parent / "README.md"
NAMES = ["novograd"] + [
    module.name for module in pkgutil.walk_packages(novograd.__path__, "novograd.")
]


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "name",
    ["novograd.rule", "novograd.reference", "novograd.hyperparameters", "novograd.tensorflow"],
)
def test_public_functions_and_classes_have_an_example(name):
    module = importlib.import_module(name)
    for public in vars(module).values():
        own = getattr(public, "__module__", None) == name
        if own and inspect.isroutine(public) and not public.__name__.startswith("_"):
            assert ">>>" in (public.__doc__ or ""), public


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
)
def test_readme_examples(block):
    exec(compile(block, str(README), "exec"), {})
