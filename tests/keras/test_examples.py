"""Every example of Keras runs: docstrings, and the Python blocks of README and docs."""

import pytest

from tests.helpers import examples


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # of torch
def test_docstrings():
    examples.run_docstrings("keras")


def test_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples.run_pages("keras")
    assert not list(tmp_path.iterdir())  # nothing is left behind
