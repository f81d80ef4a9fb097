"""Sets up Keras for its tests, on the backend that KERAS_BACKEND names (default: TensorFlow).

JAX gets float64. TensorFlow logs errors only and gets two logical CPU devices for the strategies.
"""

import os

if os.environ.setdefault("KERAS_BACKEND", "tensorflow") == "jax":
    os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    from novograd.conformance.tensorflow import prepare

    prepare()


def pytest_configure(config):
    # keras.Variable.__array__ causes this warning with NumPy 2.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)
