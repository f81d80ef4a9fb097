"""The task: label the tissue of every pixel in slices of a real brain MRI with damaged intensities.

The data is one half of the MNI152 T1 template at 1 mm (``data/make_brain.py``). On the undamaged
template two thresholds are nearly as good as a network. So each slice is damaged as a scanner does:
a smooth bias field, an unknown contrast (gamma), Rician noise, and an arbitrary scale.

Training, validation and test slices come from different slabs along the body axis. A split into
left and right would be wrong, because the template is mirror-symmetric. The template is one
averaged brain: results compare optimizers and say nothing about patients.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from novograd.compare.task import Segmentation, Task

CLASSES = ("CSF", "GM", "WM")  # labels 1, 2, 3; 0 is background

DEPTH, SLAB, MARGIN = 138, 12, 2  # slices in all, in a slab, and unused at each end of some slabs
VALIDATION, TEST = (3, 9), (1, 4, 7, 10)  # slabs; the others are for training
BIAS, GAMMA, NOISE = 0.3, 0.4, 0.06  # see corrupt()
HELD_OUT_SEED = 152  # the validation and test slices are the same for every seed
BATCH, SIDE = 8, 64  # crops, and their height and width


class Slices(NamedTuple):
    """Images with their labels.

    Attributes:
        images: float32, shape ``(slices, 80, 192)``, each slice of mean 0 and variance 1.
        labels: uint8, same shape, see ``CLASSES``.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.uint8]


class Split(NamedTuple):
    """The indices of slices in each part of the data, ascending.

    Attributes:
        training: The training slices.
        validation: The validation slices.
        test: The test slices.
    """

    training: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split() -> Split:
    """Splits the slices into parts by slabs of 12 neighbouring slices.

    The 2 slices at each end of a validation or test slab are not used, because neighbouring slices
    are nearly equal.
    """
    index = np.arange(DEPTH)
    slab, place = np.divmod(index, SLAB)
    inside = (place >= MARGIN) & (place < SLAB - MARGIN)
    validation, test = np.isin(slab, VALIDATION), np.isin(slab, TEST)
    return Split(index[~validation & ~test], index[validation & inside], index[test & inside])


def corrupt(t1: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Damages each slice in its own way, then scales it to mean 0 and variance 1.

    The bias field is the exponential of a random quadratic with coefficients in ±0.3, over
    coordinates in ±1. Gamma is the exponential of a number in ±0.4. The noise is Rician, 0.06 of
    the full intensity.

    Args:
        t1: Clean intensities, shape ``(slices, height, width)``.
        random: The generator for the damage.

    Returns:
        The damaged slices, same shape.
    """
    count, height, width = t1.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([x, y, x * y, x**2, y**2]).astype(np.float32)
    coefficients = random.uniform(-BIAS, BIAS, (count, len(terms))).astype(np.float32)
    gamma = np.exp(random.uniform(-GAMMA, GAMMA, (count, 1, 1))).astype(np.float32)
    seen = scanned(t1, np.tensordot(coefficients, terms, axes=1), gamma, random)
    mean = seen.mean(axis=(1, 2), keepdims=True)
    return (seen - mean) / seen.std(axis=(1, 2), keepdims=True)


def scanned(
    t1: NDArray[np.uint8],
    log_bias: NDArray[np.float32],
    gamma: NDArray[np.float32] | np.float64,
    random: np.random.Generator,
) -> NDArray[Any]:
    """Simulates a scan of clean intensities, with bias field, gamma and noise."""
    signal = np.exp(log_bias) * (t1.astype(np.float32) / 255) ** gamma
    noise = NOISE * random.standard_normal((2, *t1.shape), dtype=np.float32)
    return np.hypot(signal + noise[0], noise[1])


def template() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Loads the undamaged brain: intensities and labels, shape ``(138, 80, 192)``."""
    with (
        files("novograd.compare.tasks").joinpath("data/brain.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        return arrays["t1"], arrays["labels"]


def damaged(chosen: NDArray[np.intp], seed: int) -> Slices:
    """Returns slices as a scanner would show them.

    Args:
        chosen: The indices of the slices.
        seed: Seed of the damage.
    """
    t1, labels = template()
    return Slices(corrupt(t1[chosen], np.random.default_rng(seed)), labels[chosen])


def crops(slices: Slices, seed: int) -> Iterator[Slices]:
    """Draws random square crops without end.

    Args:
        slices: The slices to cut from.
        seed: Seed of the draw; the same seed gives the same batches.

    Yields:
        8 crops: images and labels, shape ``(8, 64, 64)``.
    """
    random = np.random.default_rng(seed)
    images = sliding_window_view(slices.images, (SIDE, SIDE), axis=(1, 2))
    labels = sliding_window_view(slices.labels, (SIDE, SIDE), axis=(1, 2))
    while True:
        where = tuple(random.integers(0, images.shape[:3], (BATCH, 3)).T)
        yield Slices(images[where], labels[where])


def dice(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> dict[str, float]:
    """Measures the overlap of two labellings, class by class.

    Args:
        predicted: Predicted labels, any shape.
        labels: True labels, same shape.

    Returns:
        First ``"mean Dice"``, the mean of the classes; then a score for each of ``CLASSES``: twice
        the number of voxels with the class in both, divided by the sum of the numbers of voxels
        with the class in each. The score is 1 if both are equal or neither has the class, and 0 if
        they are disjoint.
    """
    scores = {}
    for label, name in enumerate(CLASSES, start=1):
        found, true = predicted == label, labels == label
        total = int(found.sum() + true.sum())
        scores[name] = 2 * int((found & true).sum()) / total if total else 1.0
    return {"mean Dice": sum(scores.values()) / len(scores), **scores}


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import unet

    return unet(seed, classes=len(CLASSES) + 1)


def loss(logits: Any, labels: Any) -> Any:
    """Returns the cross-entropy plus one minus the soft Dice, computed by Keras."""
    from novograd.compare.keras.losses import segmentation_loss

    return segmentation_loss(logits, labels)


def _pictures(images: Any, logits: Any, labels: Any) -> Segmentation:
    shown = slice(4, None, 8)  # one from each test slab
    found = logits[shown].argmax(-1).astype(np.uint8)
    return Segmentation(images[shown], labels[shown], found, CLASSES)


TASK = Task(
    title="Label the tissue of every pixel in slices of a brain MRI",
    about=(
        "A small U-Net labels cerebrospinal fluid (CSF), grey matter (GM) and white matter (WM) in "
        "slices of one half of the MNI152 template, damaged as a scanner does. The task shows how "
        "optimizers perform on a segmentation with a rare class (CSF, 2 % of the pixels). The "
        "template is one averaged brain, so the task says nothing about patients."
    ),
    model=_model,
    batches=lambda seed: crops(damaged(split().training, seed), seed),
    validation=lambda: [damaged(split().validation, HELD_OUT_SEED)],
    test=lambda: [damaged(split().test, HELD_OUT_SEED)],
    loss=loss,
    metric=lambda logits, labels: dice(logits.argmax(-1), labels),
    margin=0.02,
    steps=160,
    learning_rates={
        "novograd": 0.03,
        "novograd:rows": 0.03,
        "adamw": 0.1,
        "nadamw": 0.03,
        "sgd": 0.1,
    },
    segmentation=_pictures,
)
