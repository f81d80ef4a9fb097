"""The examples in docstrings and pages, grouped by the framework that they need.

The tests of each framework run its examples, in a process that has imported the framework.
"""

import contextlib
import doctest
import importlib
import re
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import novograd
from tests.helpers.programs import REPOSITORY

ROOT = Path(novograd.__file__).parent
DOCS = REPOSITORY / "docs"
PART = "# A part of "  # begins a block of code that shows a part of a program
FRAMEWORKS = ("tensorflow", "keras", "torch", "jax")
WITH_TRITON = (
    "novograd.torch.backends.triton",
    "novograd.torch.backends.triton_int8",
    "novograd.torch.backends.triton_kernels",
    "novograd.torch.backends.triton_rounding",
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
    for page in (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))):
        for block in _code(page.read_text(encoding="utf-8"), "python"):
            needs = next((name for name in FRAMEWORKS if name in block), "none")
            found[needs].append((page.name, block))
    return found


def _code(text: str, language: str) -> list[str]:
    """Returns the blocks of code on a page that are not a part of a file of the repository."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks if not block.startswith(PART)]


def parts() -> list[tuple[str, str, str]]:
    """Returns the parts of programs on the pages: the page, the program and its part."""
    block = re.compile(rf"^```python\n{PART}(\S+)\n\n(.*?)```", re.DOTALL | re.MULTILINE)
    return [
        (page.name, path, part)
        for page in sorted(DOCS.rglob("*.md"))
        for path, part in block.findall(page.read_text(encoding="utf-8"))
    ]


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


def before_and_after(page: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the first blocks before and after on a page of docs/migrate; returns their variables."""
    text = (DOCS / "migrate" / page).read_text(encoding="utf-8")
    before, after = text.split("## After\n")
    programs = _code(before, "py")[0], _code(after, "python")[0]
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for program, variables in zip(programs, found, strict=True):
        exec(compile(program, page, "exec"), variables)
    return found
