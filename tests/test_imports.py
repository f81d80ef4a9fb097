"""Only some modules may import a framework, and the package needs none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import novograd

ROOT = Path(novograd.__file__).parent
FRAMEWORKS = {"tensorflow", "keras", "torch", "jax", "optax", "flax", "equinox"}
MODULES = sorted(ROOT.rglob("*.py"))


def imported(path):
    """Yields the top-level packages that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_modules_named_after_a_framework_import_it(path):
    relative = path.relative_to(ROOT)
    names = {path.stem, *relative.parent.parts}
    # TensorFlow users write models in Keras, and JAX users write optimizers with optax.
    companions = {"tensorflow": {"keras"}, "jax": {"optax"}}
    allowed = names.union(*(companions.get(name, set()) for name in names))
    assert set(imported(path)) & FRAMEWORKS <= allowed


@pytest.mark.parametrize("module", ["novograd", "novograd.rule", "novograd.reference"])
def test_the_package_needs_no_framework(module):
    blocked = FRAMEWORKS | {"typer", "rich", "matplotlib", "ml_dtypes"}
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked)})); import {module}"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_only_tests_and_conformance_use_the_oracle():
    users = {
        path.relative_to(ROOT).parts[0]
        for path in MODULES
        if "import reference" in path.read_text(encoding="utf-8")
    }
    assert users == {"conformance"}


def test_the_documented_path_only_re_exports_the_class():
    path = ROOT.parent / "ai4med" / "libs" / "optimizers" / "__init__.py"
    docstring, *statements = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(statement) for statement in statements] == [
        "from novograd.tensorflow import NovoGrad",
        "__all__ = ['NovoGrad']",
    ]
