"""Training with ``keras.distribution``, which shards variables over devices (JAX only)."""

import pickle

import keras
import numpy as np
import pytest

from tests.helpers import programs, xla
from tests.keras import distributed_training as training

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras shards variables on JAX only"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "results"
    programs.run(training.__name__, path, KERAS_BACKEND="jax", XLA_FLAGS=xla.devices(4))
    return pickle.loads(path.read_bytes())


LAYOUTS = pytest.mark.parametrize("layout", training.LAYOUTS)


@LAYOUTS
@pytest.mark.parametrize("name", training.OPTIMIZERS)
def test_results_equal_training_on_one_device(results, name, layout):
    both = results[name, layout], results[name, "one device"]
    for (path, *_, cut), (*_, whole) in zip(*both, strict=True):
        np.testing.assert_allclose(cut, whole, rtol=2e-5, atol=1e-6, err_msg=path)


@LAYOUTS
@pytest.mark.parametrize("name", [name for name in training.OPTIMIZERS if name != "adam"])
def test_state_is_sharded_like_its_weight(results, name, layout):
    """Only axes of full length are sharded; other axes and numbers are not."""
    weights, state = results[name, layout][:4], results[name, layout][4:]
    of_each = len(state) // len(weights)
    for i, (path, shape, axes, _) in enumerate(state):
        _, whole, names, _ = weights[i // of_each]
        pairs = zip(names, shape, whole, strict=False)
        assert axes == [name if n == length else None for name, n, length in pairs], path
    assert weights[0][2] == list(training.LAYOUTS[layout])
