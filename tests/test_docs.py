"""The examples in docstrings, README and docs run, and the pages show the current results.

This file runs the examples that need no framework. The folder of each framework runs the others.
"""

import ast
import re
import subprocess
import sys

import pytest

from novograd.compare.tasks import BUILT_IN
from tests.helpers import examples
from tests.helpers.programs import REPOSITORY


def test_every_framework_has_modules_with_examples():
    assert set(examples.MODULES) == {"none", *examples.FRAMEWORKS}


def test_examples_in_docstrings_run():
    examples.run_docstrings("none")


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
        "novograd.torch.rows",
    ],
)
def test_public_functions_and_classes_have_an_example(name):
    (path,) = (group[name] for group in examples.MODULES.values() if name in group)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            only_data = isinstance(node, ast.ClassDef) and not any(
                isinstance(part, ast.FunctionDef) for part in node.body
            )
            assert only_data or ">>>" in (ast.get_docstring(node) or ""), node.name


def test_examples_in_pages_run(tmp_path):
    examples.run_pages("none", tmp_path)


def test_pages_show_parts_of_programs_as_they_are():
    parts = examples.parts()
    assert {page for page, *_ in parts} == {"sharding.md", "statistics.md"}
    for page, path, part in parts:
        assert part in (REPOSITORY / path).read_text(encoding="utf-8"), page


def test_pages_that_a_repository_shows_have_plain_markdown():
    for path in examples.DOCS.rglob("*.md"):
        if path.name not in ("contributing.md", "changelog.md"):  # they include other pages
            found = re.findall(r"^ *(?:--8<--|=== |!!! |\?\?\? ).*", path.read_text("utf-8"), re.M)
            assert not found, path.name


def test_the_page_on_scale_has_the_tables_that_its_program_prints():
    program = REPOSITORY / "benchmarks" / "cost_at_scale.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    for table in done.stdout.strip().split("\n\n"):
        assert table in page


def test_the_page_on_layers_has_the_tables_that_the_ablation_prints():
    program = REPOSITORY / "benchmarks" / "ablation.py"
    done = subprocess.run(
        [sys.executable, program, "--show"], capture_output=True, text=True, check=True
    )
    page = (REPOSITORY / "docs" / "layers.md").read_text(encoding="utf-8")
    for block in done.stdout.strip().split("\n\n"):
        assert block in page


def test_the_pages_of_tasks_show_the_stored_results(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import task_results

    assert {path.stem for path in task_results.PAGES.glob("*.md")} == {*BUILT_IN}
    for path in task_results.PAGES.glob("*.md"):
        assert path.read_text(encoding="utf-8") == task_results.page(path)
    for path in task_results.SUMMARIES:
        assert task_results.summary() in path.read_text(encoding="utf-8")


def test_the_page_on_choosing_has_the_learning_rates_of_the_tasks():
    folder = REPOSITORY / "docs"
    page = (folder / "choose.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\w+\]\(tasks/(\w+)\.md\).* (\w+) \| (\S+) \| (\S+) \|", page, re.M)
    assert len(rows) >= 8
    for task, framework, ours, adamw in rows:
        text = (folder / "tasks" / f"{task}.md").read_text(encoding="utf-8")
        found = text.split(f"`novograd compare {task} --framework {framework}`")[1]
        rates = dict(re.findall(r"^\| ([\w ]+) \| ([\d.]+) \| [\d.]+ \(", found, re.M)[::-1])
        assert (rates["NovoGrad rows"], rates["AdamW"]) == (ours, adamw), (task, framework)
