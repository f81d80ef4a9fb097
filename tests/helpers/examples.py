"""The examples of docstrings and pages, by the framework that they need.

Each folder of tests runs those of its framework in its own process, which has imported it.
"""

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
)  # tests/gpu runs theirs


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


# Names and files of all modules, and pages and texts of all Python blocks.
MODULES, BLOCKS = _modules(), _blocks()


def run_docstrings(framework: str) -> None:
    """Runs the docstring examples of a framework's modules."""
    for name in MODULES[framework]:
        if name not in WITH_TRITON:
            assert doctest.testmod(importlib.import_module(name)).failed == 0, name


def run_pages(framework: str) -> None:
    """Runs the Python blocks of all pages that need a framework, each as a program of its own."""
    for page, block in BLOCKS[framework]:
        exec(compile(block, page, "exec"), {"__name__": "__main__"})
