"""Every example for TensorFlow runs: in docstrings, and in Python blocks of README and docs."""

from tests.helpers import examples


def test_examples_in_docstrings_run():
    examples.run_docstrings("tensorflow")


def test_examples_in_pages_run(tmp_path):
    examples.run_pages("tensorflow", tmp_path)
