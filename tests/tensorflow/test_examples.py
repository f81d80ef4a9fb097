"""Every example of TensorFlow runs: docstrings, and the Python blocks of README and docs."""

from tests.helpers import examples


def test_docstrings():
    examples.run_docstrings("tensorflow")


def test_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples.run_pages("tensorflow")
    assert not list(tmp_path.iterdir())  # nothing is left behind
