"""Every example for Keras runs: in docstrings, and in the Python blocks of README and docs."""

import keras
import pytest

from tests.helpers import examples


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # from torch
def test_examples_in_docstrings_run():
    examples.run_docstrings("keras")


def test_examples_in_pages_run(tmp_path):
    examples.run_pages("keras", tmp_path)


if keras.backend.backend() != "tensorflow":  # the pages are the same for every backend
    test_examples_in_pages_run = pytest.mark.full(test_examples_in_pages_run)
