"""The task: recognise spoken digits, 3,000 recordings of the Free Spoken Digit Dataset.

The data are mel-frequency cepstral coefficients of the recordings (``data/make_speech.py``). All
six speakers are in each part, as in the data set's own split. The accuracy on a speaker who is not
in the training part depends on the seed five times more, too much to compare optimizers.
"""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Task
from novograd.compare.tasks.digits import accuracy, drawn, loss, part

FRAMES = 32  # 98 % of the recordings are shorter
TRAINING, VALIDATION, TEST = slice(2000), slice(2000, 2500), slice(2500, None)


@cache
def load() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Loads the recordings, shape ``(3000, 32, 13)``, and their digits.

    Each coefficient has mean 0 and variance 1 over the frames of a recording, which removes most of
    the microphone and the loudness. A recording is in the middle of its 32 frames, with zeros
    around; a longer recording loses both ends.
    """
    with (
        files("novograd.compare.tasks").joinpath("data/speech.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        frames, lengths, digits = (arrays[name] for name in ("coefficients", "lengths", "digits"))
    recordings = np.split(frames.T.astype(np.float32), np.cumsum(lengths.astype(int))[:-1])
    return np.stack([_framed((x - x.mean(axis=0)) / x.std(axis=0)) for x in recordings]), digits


def _framed(recording: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the middle 32 frames of a recording, with zeros around."""
    missing = FRAMES - len(recording)
    if missing < 0:
        return recording[-missing // 2 :][:FRAMES]
    return np.pad(recording, ((missing // 2, missing - missing // 2), (0, 0)))


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import separable

    return separable(seed, *load()[0].shape[1:], classes=10)


TASK = Task(
    title="Recognise spoken digits",
    about=(
        "A small QuartzNet, a network of time-channel separable convolutions, recognises the digit "
        "in 500 recordings of the Free Spoken Digit Dataset and learns from 2,000 others by the "
        "same six speakers. The task shows how optimizers perform on the kind of network that "
        "NovoGrad was made for, with batch norm. The words are few and the network is small: the "
        "task says little about the recognition of continuous speech."
    ),
    model=_model,
    batches=lambda seed: drawn(part(load(), TRAINING), seed),
    validation=lambda: [part(load(), VALIDATION)],
    test=lambda: [part(load(), TEST)],
    loss=loss,
    metric=accuracy,
    margin=0.01,
    steps=100,
    learning_rates={
        "novograd": 0.03,
        "novograd:rows": 0.03,
        "adamw": 0.03,
        "nadamw": 0.03,
        "adam": 0.03,
        "sgd": 0.3,
    },
)
