"""The task: recognise handwritten digits of 8 x 8 pixels, a data set in scikit-learn."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Task

# Training, validation and test images. The last 450 images are mostly by other writers.
TRAINING, VALIDATION, TEST = slice(1047), slice(1047, 1347), slice(1347, None)
BATCH = 64

Images = tuple[NDArray[np.float32], NDArray[np.uint8]]


@cache
def load() -> Images:
    """Loads the images, shape ``(1797, 8, 8)``, values 0 to 1, and their digits."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target.astype(np.uint8)


def drawn(images: Images, seed: int) -> Iterator[Images]:
    """Draws batches without end: all images in random order, again and again.

    Args:
        images: Images and their labels.
        seed: Seed of the order.

    Yields:
        64 images with their labels. Images left over at the end of a round are not used.
    """
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(images[0]))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield images[0][chosen], images[1][chosen]


def accuracy(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Returns the share of images whose label has the highest logit."""
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import convolutional

    return convolutional(seed, side=8, widths=(16, 32, 64), classes=10)


def loss(logits: Any, labels: Any) -> Any:
    """Returns the cross-entropy, computed by Keras."""
    from novograd.compare.keras.losses import cross_entropy

    return cross_entropy(logits, labels)


def part(images: Images, of: slice) -> Images:
    """Returns a slice of the images with their labels."""
    return images[0][of], images[1][of]


TASK = Task(
    title="Recognise handwritten digits of 8 x 8 pixels",
    about=(
        "A small convolutional network classifies the 1,797 digits of scikit-learn (UCI). A run "
        "takes seconds, and good optimizers reach nearly 99 %. The task shows whether an optimizer "
        "works and at which learning rates, but hardly which optimizer is better."
    ),
    model=_model,
    batches=lambda seed: drawn(part(load(), TRAINING), seed),
    validation=lambda: [part(load(), VALIDATION)],
    test=lambda: [part(load(), TEST)],
    loss=loss,
    metric=accuracy,
    margin=0.01,
    steps=210,
)
