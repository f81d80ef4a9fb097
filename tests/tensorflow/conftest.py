"""Sets up TensorFlow for its tests: fewer log lines, and two logical CPU devices."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from novograd.conformance.tensorflow import prepare

prepare()
