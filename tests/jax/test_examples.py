"""Every example for JAX runs: in docstrings, and in the Python blocks of README and docs."""

import jax

from tests.helpers import examples


def test_examples_in_docstrings_run():
    examples.run_docstrings("jax")


def test_examples_in_pages_run(tmp_path, monkeypatch):
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: devices[:4])  # as many as there are experts
    examples.run_pages("jax", tmp_path)
