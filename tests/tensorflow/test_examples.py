"""Every example for TensorFlow runs: in docstrings, and in Python blocks of README and docs."""

from tests.helpers import examples


def test_examples_in_docstrings_run():
    examples.run_docstrings("tensorflow")


def test_examples_in_pages_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples.run_pages("tensorflow")
    assert not list(tmp_path.iterdir())  # nothing is left behind
