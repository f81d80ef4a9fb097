"""Compare optimizers on your own module of Equinox.

    novograd compare examples/compare_equinox_module.py --quick

The data is scikit-learn's digits: 1,797 images of 8 x 8 pixels. As usual in Equinox, a module takes
one example. ``novograd compare`` maps it over the batch. If ``__call__`` has an argument ``key``,
each example gets its own key. A module with state is returned together with its state. Then
``__call__`` takes the state as its second argument and returns the output and the new state.
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

from novograd.compare import Task

images, labels = load_digits(return_X_y=True)
images, labels = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int32)
TRAINING, VALIDATION = slice(0, 1000), slice(1000, 1300)
TEST = slice(1300, None)


class Classifier(eqx.Module):
    convolution: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.convolution = eqx.nn.Conv2d(1, 16, 3, stride=2, padding=1, key=first)
        self.norm = eqx.nn.BatchNorm(16, axis_name="batch", mode="batch")  # always this axis_name
        self.dropout = eqx.nn.Dropout(0.1)
        self.out = eqx.nn.Linear(256, 10, key=second)

    def __call__(self, image, state, *, key):
        x, state = self.norm(self.convolution(image), state)
        x = self.dropout(jax.nn.relu(x).ravel(), key=key)
        return self.out(x), state


def batches(seed):
    random = np.random.default_rng(seed)
    while True:
        chosen = random.integers(0, TRAINING.stop, 64)
        yield images[chosen], labels[chosen]


def loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


task = Task(
    model=lambda seed: eqx.nn.make_with_state(Classifier)(jax.random.key(seed)),
    batches=batches,
    validation=lambda: [(images[VALIDATION], labels[VALIDATION])],
    test=lambda: [(images[TEST], labels[TEST])],
    loss=loss,
    metric=lambda logits, labels: {"accuracy": (logits.argmax(-1) == labels).mean()},
    title="Recognise handwritten digits with a module of Equinox",
    about="497 test images: differences of a few images are chance.",
    margin=0.01,
    steps=100,
)
