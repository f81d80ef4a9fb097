"""Compare optimizers on your own module of Flax NNX.

    novograd compare examples/compare_flax_module.py --quick

The data is scikit-learn's digits: 1,797 images of 8 x 8 pixels. A module may have batch statistics
and dropout: it trains in the mode ``train()`` and is evaluated in the mode ``eval()``.
"""

import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from novograd.compare import Task

images, labels = load_digits(return_X_y=True)
images, labels = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int32)
TRAINING, VALIDATION = slice(0, 1000), slice(1000, 1300)
TEST = slice(1300, None)


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.convolution = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.convolution(images)))
        return self.out(self.dropout(x.reshape(len(x), -1)))


def batches(seed):
    random = np.random.default_rng(seed)
    while True:
        chosen = random.integers(0, TRAINING.stop, 64)
        yield images[chosen], labels[chosen]


def loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


task = Task(
    model=lambda seed: Classifier(nnx.Rngs(seed)),
    batches=batches,
    validation=lambda: [(images[VALIDATION], labels[VALIDATION])],
    test=lambda: [(images[TEST], labels[TEST])],
    loss=loss,
    metric=lambda logits, labels: {"accuracy": (logits.argmax(-1) == labels).mean()},
    title="Recognise handwritten digits with a module of Flax NNX",
    about="497 test images: differences of a few images are chance.",
    margin=0.01,
    steps=100,
)
