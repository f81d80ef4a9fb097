"""Every PyTorch example in docstrings, README and docs runs."""

from tests.helpers import examples


def test_examples_in_docstrings_run():
    examples.run_docstrings("torch")


def test_examples_in_pages_run(tmp_path):
    examples.run_pages("torch", tmp_path)
