"""What the tests of every framework use.

``make test`` runs each framework's folder in a process of its own. Plain ``pytest`` runs in one
process whatever can share one, and says at the end what could not.
"""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

from novograd import rule

HERE = Path(__file__).parent
FOLDERS = {path.parent.name for path in HERE.glob("*/test_*.py")}
KERAS_BACKENDS = ("tensorflow", "torch", "jax")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run also the tests that are marked full")


def pytest_configure(config):
    # If TensorFlow is imported first, its libraries stand in the way of torch's.
    if {"tensorflow", "keras"} & folders(config) and importlib.util.find_spec("torch"):
        importlib.import_module("torch")


def pytest_ignore_collect(collection_path, config):
    if collection_path == HERE / "keras" and keras_is_apart(config):
        return True
    return None  # False would decide for other plugins as well


def pytest_collection_modifyitems(config, items):
    if config.getoption("full"):
        return
    config.hook.pytest_deselected(items=[x for x in items if x.get_closest_marker("full")])
    items[:] = [x for x in items if not x.get_closest_marker("full")]


def folders(config):
    """Names the folders whose tests the command line asks for."""
    found = set()
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if path == HERE or path in HERE.parents:
            found |= FOLDERS
        elif HERE in path.parents:
            found.add(path.relative_to(HERE).parts[0])
    return found & FOLDERS


def keras_is_apart(config):
    """Whether the tests of Keras cannot share the process with the others that are asked for."""
    # On other backends Keras sets up its framework otherwise than the tests of that framework.
    return keras_backend() != "tensorflow" and folders(config) != {"keras"}


def keras_backend():
    return os.environ.get("KERAS_BACKEND", "tensorflow")


@pytest.fixture
def wrong_rule(monkeypatch):
    """The rule with another epsilon: whatever holds no second copy of it is wrong as well."""
    right = rule.numbers
    monkeypatch.setattr(
        rule, "numbers", lambda variant, **hyper: right(variant, **hyper | {"epsilon": 1.0})
    )


def pytest_terminal_summary(terminalreporter, config):
    """Shows what was measured, and what plain ``pytest`` leaves to ``make test``."""
    found = [
        found
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for found in report.user_properties
    ]
    show_peers(terminalreporter, [row for key, row in found if key == "peer"])
    for key, matrix in found:
        if key == "matrix":
            terminalreporter.section("conversions, ulp of the largest weight")
            terminalreporter.write_line(matrix)
    if folders(config) == FOLDERS:
        terminalreporter.section("not run here, but by `make test`")
        for line in left_to_make(config):
            terminalreporter.write_line(line)


def show_peers(terminalreporter, rows):
    """Shows how far the published optimizers are from ours."""
    if not rows:
        return
    terminalreporter.section("largest differences from published optimizers")
    heads = "peer", "variant", "ours", "dtype", "w", "m", "v", "allowed"
    for row in [heads, *sorted(rows)]:
        cells = [x if isinstance(x, str) else f"{x:.1e}" for x in row]
        terminalreporter.write_line("{:30} {:20} {:20} {:8} {:>8} {:>8} {:>8} {:>8}".format(*cells))


def left_to_make(config):
    """Yields what one process cannot run, and why."""
    ran = set() if keras_is_apart(config) else {keras_backend()}
    others = ", ".join(name for name in KERAS_BACKENDS if name not in ran)
    yield f"tests/keras on {others}: Keras has one backend in a process"
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield "tests/gpu by Triton's interpreter: torch would use Triton in other tests as well"
    if "NOVOGRAD_WHEELS" not in os.environ:
        yield "tests with published optimizers in wheels: the Makefile downloads these"
    if not config.getoption("full"):
        yield "tests that are marked full: give --full, or run `make test-all`"
