"""The examples in docstrings and pages, grouped by the framework that they need.

The tests of each framework run its examples, in a process that has imported the framework.
"""

import contextlib
import doctest
import importlib
import re
from collections import defaultdict
from pathlib import Path

import novograd
from tests.helpers.programs import REPOSITORY

ROOT = Path(novograd.__file__).parent
FRAMEWORKS = ("tensorflow", "keras", "torch", "jax")
WITH_TRITON = (
    "novograd.torch.backends.triton",
    "novograd.torch.backends.triton_kernels",
)  # tests/gpu runs the examples of Triton


def _modules() -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "data" not in parts:
            needs = next((name for name in FRAMEWORKS if name in parts), "none")
            found[needs][".".join(("novograd", *parts)).removesuffix(".__init__")] = path
    return found


def _blocks() -> dict[str, list[tuple[str, str]]]:
    found = defaultdict(list)
    for page in (REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            needs = next((name for name in FRAMEWORKS if name in block), "none")
            found[needs].append((page.name, block))
    return found


# By framework: the files of the modules by name, and the Python blocks with their pages.
MODULES, BLOCKS = _modules(), _blocks()


def run_docstrings(framework: str) -> None:
    """Runs the docstring examples of a framework's modules."""
    for name in MODULES[framework]:
        if name not in WITH_TRITON:
            assert doctest.testmod(importlib.import_module(name)).failed == 0, name


def run_pages(framework: str, folder: Path) -> None:
    """Runs the Python blocks that need a framework, on all pages, each as a separate program.

    They run in an empty folder, and must leave no files there.
    """
    with contextlib.chdir(folder):
        for page, block in BLOCKS[framework]:
            exec(compile(block, page, "exec"), {"__name__": "__main__"})
    assert not list(folder.iterdir())
