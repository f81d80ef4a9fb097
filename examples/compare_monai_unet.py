"""Compare optimizers on your own PyTorch model, here MONAI's UNet.

    novograd compare examples/compare_monai_unet.py --quick

The program makes volumes of bright ellipsoids and dim boxes in noise. The model labels each voxel.
To use your own data, replace ``volumes``.
"""

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from novograd.compare import Segmentation, Task

SIDE, BATCH = 32, 2


def model(seed):
    torch.manual_seed(seed)
    return UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(8, 16, 32), strides=(2, 2))


def volumes(random, count):
    """Makes volumes (count, 1, 32, 32, 32), float32, and their labels, int64, of the same shape."""
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    labels = np.zeros((count, 1, SIDE, SIDE, SIDE), np.int64)
    for volume in labels[:, 0]:
        for label in (1, 2, 1, 2):
            centre = random.uniform(8, SIDE - 8, (3, 1, 1, 1))
            radii = random.uniform(3, 7, (3, 1, 1, 1))
            away = np.abs(grid - centre) / radii
            volume[((away**2).sum(0) if label == 1 else away.max(0)) < 1] = label
    noise = random.standard_normal(labels.shape, dtype=np.float32)
    brightness = np.array([0.0, 1.0, 0.5], np.float32)
    return brightness[labels] + 0.5 * noise, labels


def batches(seed):
    random = np.random.default_rng(seed)
    while True:
        yield volumes(random, BATCH)


def test():
    return [volumes(np.random.default_rng(1000), 8)]


def metric(outputs, labels):
    found = outputs.argmax(1, keepdims=True)
    dice = {
        name: 2 * np.sum((found == label) & (labels == label))
        / max(1, np.sum(found == label) + np.sum(labels == label))
        for name, label in (("ellipsoids", 1), ("boxes", 2))
    }  # fmt: skip
    return {"mean Dice": np.mean(list(dice.values())), **dice}


def pictures(inputs, outputs, labels):
    middle = SIDE // 2
    found = outputs.argmax(1)
    return Segmentation(
        inputs[:4, 0, middle],
        labels[:4, 0, middle].astype(np.uint8),
        found[:4, middle].astype(np.uint8),
    )


task = Task(
    model=model,
    batches=batches,
    test=test,
    loss=DiceCELoss(softmax=True, to_onehot_y=True),
    metric=metric,
    segmentation=pictures,
    title="Label ellipsoids and boxes in noisy volumes",
    about="Made-up volumes: they show only how to use your own model.",
    margin=0.02,
    steps=60,
)
