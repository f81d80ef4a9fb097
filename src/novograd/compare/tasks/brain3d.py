"""The task: label the tissue of every voxel in 3-D blocks of the brain of the task ``brain``.

Slabs as thick as a block are damaged like the slices of ``brain``, each slab in its own way, and
cut into blocks. The test slabs lie in the middle of the body axis, the validation slabs above them,
and the training slabs below and above both, with gaps between the parts.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from novograd.compare.task import Segmentation, Task
from novograd.compare.tasks.brain import (
    BIAS,
    CLASSES,
    GAMMA,
    HELD_OUT_SEED,
    dice,
    loss,
    scanned,
    template,
)

DEPTH, SIDE, BATCH = 8, 64, 2


class Part(NamedTuple):
    """A part of the brain that is held out.

    Attributes:
        start: Where its first slab begins along z.
        slabs: Number of slabs.
        seed: Seed of the damage.
    """

    start: int
    slabs: int
    seed: int

    @property
    def end(self) -> int:
        """Where the part ends along z."""
        return self.start + self.slabs * DEPTH


TEST = Part(57, 3, HELD_OUT_SEED)
GAP = 4  # unused voxels between two parts along z
VALIDATION = Part(TEST.end + GAP, 2, HELD_OUT_SEED + 1)

Blocks = tuple[NDArray[np.float32], NDArray[np.uint8]]  # images, labels: (blocks, 8, 64, 64)


def corrupt(t1: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Damages a slab like ``brain.corrupt`` damages a slice: bias field, gamma, Rician noise.

    Args:
        t1: Clean intensities, shape ``(depth, height, width)``.
        random: The generator for the damage.

    Returns:
        The damaged slab with mean 0 and variance 1, same shape.
    """
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in t1.shape), indexing="ij")
    terms = np.stack([x, y, z, x * y, y * z, z * x, x**2, y**2, z**2]).astype(np.float32)
    coefficients = random.uniform(-BIAS, BIAS, len(terms)).astype(np.float32)
    gamma = np.exp(random.uniform(-GAMMA, GAMMA))
    seen = scanned(t1, np.tensordot(coefficients, terms, axes=1), gamma, random)
    return ((seen - seen.mean()) / seen.std()).astype(np.float32)


def crops(seed: int) -> Iterator[Blocks]:
    """Draws random blocks of the training part without end, two from one slab at a time."""
    t1, labels = template()
    random = np.random.default_rng(seed)
    starts = np.arange(len(t1) - DEPTH + 1)
    starts = starts[(starts + DEPTH <= TEST.start - GAP) | (starts >= VALIDATION.end + GAP)]
    while True:
        start = random.choice(starts)
        slab = slice(start, start + DEPTH)
        corners = random.integers(0, np.array(t1.shape[1:]) - SIDE + 1, (BATCH, 2))
        yield _cut(corrupt(t1[slab], random), labels[slab], corners)


def held_out(part: Part) -> list[Blocks]:
    """Returns the slabs of a part, cut into blocks side by side; always with the same damage."""
    t1, labels = template()
    random = np.random.default_rng(part.seed)
    steps = [np.arange(0, side - SIDE + 1, SIDE) for side in t1.shape[1:]]
    corners = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    slabs = [slice(z, z + DEPTH) for z in range(part.start, part.end, DEPTH)]
    cut = [_cut(corrupt(t1[slab], random), labels[slab], corners) for slab in slabs]
    images, truth = zip(*cut, strict=True)
    return [(np.concatenate(images), np.concatenate(truth))]


def _cut(images: NDArray[Any], labels: NDArray[Any], corners: NDArray[Any]) -> Blocks:
    boxes = [(slice(None), slice(y, y + SIDE), slice(x, x + SIDE)) for y, x in corners]
    return np.stack([images[box] for box in boxes]), np.stack([labels[box] for box in boxes])


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import unet

    return unet(seed, classes=len(CLASSES) + 1, dimensions=3, widths=(4, 8, 16))


def _pictures(images: Any, logits: Any, labels: Any) -> Segmentation:
    blocks, middle = slice(None, None, 2), DEPTH // 2
    found = logits[blocks, middle].argmax(-1).astype(np.uint8)
    return Segmentation(images[blocks, middle], labels[blocks, middle], found, CLASSES)


TASK = Task(
    title="Label the tissue of every voxel in blocks of a brain MRI",
    about=(
        "A small 3-D U-Net labels cerebrospinal fluid (CSF), grey matter (GM) and white matter "
        "(WM) in blocks of 8 x 64 x 64 mm of one half of the MNI152 template, damaged as a scanner "
        "does. The network learns from the lower and upper parts and is tested on a part between "
        "them. The task shows how optimizers perform on 3-D convolutions with a rare class. The "
        "template is one averaged brain and the runs are short, so the task says nothing about "
        "patients, and little about the best possible result."
    ),
    model=_model,
    batches=crops,
    validation=lambda: held_out(VALIDATION),
    test=lambda: held_out(TEST),
    loss=loss,
    metric=lambda logits, labels: dice(logits.argmax(-1), labels),
    margin=0.02,
    steps=200,
    segmentation=_pictures,
)
