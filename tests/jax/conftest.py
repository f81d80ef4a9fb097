"""Sets up JAX for its tests: on the CPU, as eight devices."""

import os

from tests.helpers import xla

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla.devices(8)
