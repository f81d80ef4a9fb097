"""Every example runs: the docstrings of all modules, and the Python blocks of README and docs.

The examples of each framework run in a process of their own.
"""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import novograd
from novograd.compare.tasks import BUILT_IN

ROOT = Path(novograd.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FRAMEWORKS = ("tensorflow", "keras", "torch", "jax")
WITH_TRITON = (
    "novograd.torch.backends.triton",
    "novograd.torch.backends.triton_kernels",
)  # tests/gpu runs theirs
RUN_DOCTESTS = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    assert doctest.testmod(importlib.import_module(name)).failed == 0, name
"""

# One process for all of a framework, whose import takes longer than they do.
RUN_BLOCKS = """
import json, sys
for page, block in json.loads(sys.argv[1]):
    print(page, block, sep="\\n", file=sys.stderr)
    exec(compile(block, page, "exec"), {"__name__": "__main__"})
"""


def modules():
    """Names and files of all modules, by the framework that they need."""
    found = defaultdict(dict)
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "data" not in parts:
            needs = next((name for name in FRAMEWORKS if name in parts), "none")
            found[needs][".".join(("novograd", *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def run(program, *arguments):
    """Runs a Python program, which must not fail."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_framework_has_modules():
    assert set(MODULES) == {"none", *FRAMEWORKS}


@pytest.mark.parametrize("framework", MODULES)
def test_docstring_examples(framework):
    run(RUN_DOCTESTS, *(name for name in MODULES[framework] if name not in WITH_TRITON))


@pytest.mark.parametrize(
    "name",
    [
        "novograd.rule",
        "novograd.reference",
        "novograd.hyperparameters",
        "novograd.checkpoint",
        "novograd.checkpoint.neutral",
        "novograd.tensorflow",
        "novograd.keras",
        "novograd.jax.transformation",
        "novograd.torch.optimizer",
        "novograd.torch.parameter_groups",
    ],
)
def test_public_functions_and_classes_have_an_example(name):
    (path,) = (group[name] for group in MODULES.values() if name in group)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            only_data = isinstance(node, ast.ClassDef) and not any(
                isinstance(part, ast.FunctionDef) for part in node.body
            )
            assert only_data or ">>>" in (ast.get_docstring(node) or ""), node.name


def blocks():
    """The Python blocks of all pages, by the framework that they need."""
    found = defaultdict(list)
    for page in (REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            needs = next((name for name in FRAMEWORKS if name in block), "none")
            found[needs].append((page.name, block))
    return found


BLOCKS = blocks()


@pytest.mark.parametrize("framework", BLOCKS)
def test_examples_of_pages(framework):
    run(RUN_BLOCKS, json.dumps(BLOCKS[framework]))


def test_the_page_on_scale_holds_what_its_program_computes():
    program = REPOSITORY / "benchmarks" / "cost_at_scale.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    for table in done.stdout.strip().split("\n\n"):
        assert table in page


def test_the_pages_of_tasks_hold_what_was_found(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import task_results

    assert {path.stem for path in task_results.PAGES.glob("*.md")} == {*BUILT_IN}
    for path in task_results.PAGES.glob("*.md"):
        assert path.read_text(encoding="utf-8") == task_results.page(path)
