"""Options, fixtures and reports for the tests of all frameworks.

``make test`` runs the folder of each framework in a separate process. Plain ``pytest`` runs all
tests that can share one process, and lists at the end the tests that it cannot run.
"""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

from novograd import rule
from tests.helpers import xla

HERE = Path(__file__).parent
FOLDERS = {path.parent.name for path in HERE.glob("*/test_*.py")}
KERAS_BACKENDS = ("tensorflow", "torch", "jax")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests that are marked full")


def pytest_configure(config):
    if not config.getoption("full"):
        # XLA compiles in three quarters of the time without LLVM's optimisations.
        os.environ["XLA_FLAGS"] = xla.flags("--xla_backend_optimization_level=0")
    # If TensorFlow is imported before torch, its libraries conflict with torch's.
    if {"tensorflow", "keras"} & folders(config) and importlib.util.find_spec("torch"):
        importlib.import_module("torch")


def pytest_ignore_collect(collection_path, config):
    if collection_path == HERE / "keras" and keras_needs_its_own_process(config):
        return True
    return None  # False would overrule the other plugins


def pytest_collection_modifyitems(config, items):
    if config.getoption("full"):
        return
    config.hook.pytest_deselected(items=[x for x in items if x.get_closest_marker("full")])
    items[:] = [x for x in items if not x.get_closest_marker("full")]


def folders(config):
    """Returns the folders whose tests the command line selects."""
    found = set()
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if path == HERE or path in HERE.parents:
            found |= FOLDERS
        elif HERE in path.parents:
            found.add(path.relative_to(HERE).parts[0])
    return found & FOLDERS


def keras_needs_its_own_process(config):
    """Whether the Keras tests cannot share a process with the other selected tests."""
    # On other backends, Keras configures its framework differently from that framework's tests.
    return keras_backend() != "tensorflow" and folders(config) != {"keras"}


def keras_backend():
    return os.environ.get("KERAS_BACKEND", "tensorflow")


@pytest.fixture
def wrong_rule(monkeypatch):
    """Changes the epsilon of the rule: code without a second copy of the rule becomes wrong too."""
    right = rule.numbers
    monkeypatch.setattr(
        rule, "numbers", lambda variant, **hyper: right(variant, **hyper | {"epsilon": 1.0})
    )


def pytest_terminal_summary(terminalreporter, config):
    """Shows the measurements, and the tests that only ``make test`` runs."""
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
        terminalreporter.section("not run here; `make test` runs them")
        for line in runs_left_to_make(config):
            terminalreporter.write_line(line)


def show_peers(terminalreporter, rows):
    """Shows the differences between the published optimizers and ours."""
    if not rows:
        return
    terminalreporter.section("largest differences from published optimizers")
    heads = "peer", "variant", "ours", "dtype", "w", "m", "v", "allowed"
    for row in [heads, *sorted(rows)]:
        cells = [x if isinstance(x, str) else f"{x:.1e}" for x in row]
        terminalreporter.write_line("{:30} {:20} {:20} {:8} {:>8} {:>8} {:>8} {:>8}".format(*cells))


def runs_left_to_make(config):
    """Yields the tests that one process cannot run, each with the reason."""
    ran = set() if keras_needs_its_own_process(config) else {keras_backend()}
    others = ", ".join(name for name in KERAS_BACKENDS if name not in ran)
    yield f"tests/keras on {others}: a process can use only one backend of Keras"
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield "tests/gpu in Triton's interpreter: torch would also use Triton in other tests"
    if "NOVOGRAD_WHEELS" not in os.environ:
        yield "tests with published optimizers in wheels: the Makefile downloads the wheels"
    if not config.getoption("full"):
        yield "tests that are marked full: give --full, or run `make test-all`"
