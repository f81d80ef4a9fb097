"""Modules of Flax NNX and Equinox: training, state, and the layers of the variant ``rows``."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from novograd.compare.worker import environment

pytestmark = pytest.mark.full
KINDS = ("equinox", "flax")
SHAPES = {"embedding": (7, 4), "hidden": (4, 4), "out": (4, 3)}  # as in tests/compare/modules.py
BIASES = 4 + 3
NUMBER = 4  # bytes


@pytest.fixture(scope="session")
def found(tmp_path_factory, worker_id):
    """Returns what ``tests/compare/modules.py`` prints."""
    folder = tmp_path_factory.getbasetemp()
    # All processes of the test run share this folder.
    folder = folder if worker_id == "master" else folder.parent
    path = folder / "modules.json"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            command = [sys.executable, "-m", "tests.compare.modules"]
            given = os.environ | environment("jax")
            done = subprocess.run(command, env=given, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            path.write_text(done.stdout)
    return json.loads(path.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_modules_are_recognised_and_train(found, kind):
    assert found[kind]["described"] == "jax"
    for optimizer in ("rows", "documented"):
        run = found[kind][optimizer]
        assert run["losses"] == sorted(run["losses"], reverse=True)
        assert run["loss"] < run["losses"][-1]
        assert run["versions"] == sorted([kind, "jax", "optax"])


# The weights of Equinox are (outputs, inputs), and those of Flax (inputs, outputs).
@pytest.mark.parametrize("optimizer", ["rows", "documented"])
def test_both_kinds_train_alike(found, optimizer):
    runs = [found[kind][optimizer] for kind in KINDS]
    np.testing.assert_allclose(runs[0]["losses"], runs[1]["losses"], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_output_units_and_rows_of_embeddings(found, kind):
    rows = SHAPES["embedding"][0] + SHAPES["hidden"][1] + SHAPES["out"][1] + BIASES
    weights = sum(a * b for a, b in SHAPES.values()) + BIASES
    assert found[kind]["rows"]["weight_bytes"] == NUMBER * weights
    count = 1  # of the steps
    assert found[kind]["rows"]["state_bytes"] == NUMBER * (weights + rows + count)
    assert found[kind]["documented"]["state_bytes"] == NUMBER * (weights + len(SHAPES) + 2 + count)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_and_random_keys_change_only_in_training(found, kind):
    run = found[kind]["stateful"]
    assert found[kind]["updates"] == [True, False]
    assert len({*run["losses"]}) == len(run["losses"])
    assert run["same"]  # two predictions: no dropout
    assert found[kind]["again"] == run  # the seed determines the dropout


@pytest.mark.parametrize("kind", KINDS)
def test_the_arrays_of_the_user_stay(found, kind):
    assert found[kind]["kept"]


def test_a_missing_state_is_named(found):
    assert found["equinox"]["without state"].startswith(
        "the equinox.Module has state: task.model must return the module and its state"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_other_packages_are_not_imported(found, kind):
    assert found[kind]["imported"] == []
