"""TensorFlow set up for its tests: quiet, and with two logical CPU devices for the strategies."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from novograd.conformance.tensorflow import prepare

prepare()
