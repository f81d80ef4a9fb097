"""The task: label the tissue of every voxel in blocks of the brain of ``brain``, in 3-D.

Each block is damaged in its own way, as the slices of ``brain`` are. Training blocks come from the
back of the brain, test blocks from its front, with a gap between.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Segmentation, Task
from novograd.compare.tasks.brain import BIAS, CLASSES, GAMMA, NOISE, TEST_SEED, dice, template

SIDE, BATCH = 24, 4
FRONT, GAP = 132, 12  # along y: where the test part begins, voxels before it that are not used

Blocks = tuple[NDArray[np.float32], NDArray[np.uint8]]  # images, labels: (blocks, 24, 24, 24)


def corrupt(t1: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Damages each block as ``brain.corrupt`` does a slice: bias field, gamma, Rician noise.

    Args:
        t1: Clean intensities, shape ``(blocks, depth, height, width)``.
        random: Where the damage is drawn from.

    Returns:
        The damaged blocks, each of mean 0 and variance 1, same shape.
    """
    count, *sides = t1.shape
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in sides), indexing="ij")
    terms = np.stack([x, y, z, x * y, y * z, z * x, x**2, y**2, z**2]).astype(np.float32)
    coefficients = random.uniform(-BIAS, BIAS, (count, len(terms))).astype(np.float32)
    bias = np.exp(np.tensordot(coefficients, terms, axes=1))
    gamma = np.exp(random.uniform(-GAMMA, GAMMA, (count, 1, 1, 1))).astype(np.float32)
    signal = bias * (t1.astype(np.float32) / 255) ** gamma
    noise = NOISE * random.standard_normal((2, *t1.shape), dtype=np.float32)
    seen = np.hypot(signal + noise[0], noise[1])
    mean, deviation = (f(seen, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (seen - mean) / deviation


def crops(seed: int) -> Iterator[Blocks]:
    """Draws random blocks of the training part without end, four at a time."""
    t1, labels = (part[:, :, : FRONT - GAP] for part in template())
    random = np.random.default_rng(seed)
    while True:
        corners = random.integers(0, np.array(t1.shape) - SIDE + 1, (BATCH, 3))
        yield _cut(t1, labels, corners, random)


def test() -> list[Blocks]:
    """Returns the test part as blocks side by side, damaged once and for all."""
    t1, labels = (part[:, :, FRONT:] for part in template())
    steps = [np.arange(0, side - SIDE + 1, SIDE) for side in t1.shape]
    corners = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return [_cut(t1, labels, corners, np.random.default_rng(TEST_SEED))]


def _cut(
    t1: NDArray[Any], labels: NDArray[Any], corners: NDArray[Any], random: np.random.Generator
) -> Blocks:
    boxes = [tuple(slice(at, at + SIDE) for at in corner) for corner in corners]
    return corrupt(np.stack([t1[box] for box in boxes]), random), np.stack(
        [labels[box] for box in boxes]
    )


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import unet

    return unet(seed, classes=len(CLASSES) + 1, dimensions=3, widths=(4, 8, 16))


def _loss(logits: Any, labels: Any) -> Any:
    from novograd.compare.keras.losses import segmentation_loss

    return segmentation_loss(logits, labels)


def _pictures(images: Any, logits: Any, labels: Any) -> Segmentation:
    blocks, middle = slice(None, None, 6), SIDE // 2
    found = logits[blocks, middle].argmax(-1).astype(np.uint8)
    return Segmentation(images[blocks, middle], labels[blocks, middle], found, CLASSES)


TASK = Task(
    title="Label the tissue of every voxel in blocks of a brain MRI",
    about=(
        "A small 3-D U-Net labels cerebrospinal fluid (CSF), grey matter (GM) and white matter "
        "(WM) in blocks of 24 x 24 x 24 mm of one half of the MNI152 template, damaged as scanners "
        "do it; it learns from the back of the brain and is tested on its front. It can tell how "
        "optimizers fare on 3-D convolutions with a rare class. It is one averaged brain, and the "
        "runs are short: it says nothing about patients, and little about the best that can be "
        "reached."
    ),
    model=_model,
    batches=crops,
    test=test,
    loss=_loss,
    metric=lambda logits, labels: dice(logits.argmax(-1), labels),
    margin=0.02,
    steps=120,
    segmentation=_pictures,
)
