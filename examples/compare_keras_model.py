"""Compare optimizers on a model of your own: a Keras model, with any of its backends.

    novograd compare examples/compare_keras_model.py --framework jax --quick

The data is scikit-learn's breast cancer set: 569 tumours, 30 numbers of each, benign or malignant.
"""

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

from novograd.compare import Task

numbers, labels = load_breast_cancer(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
numbers, labels = numbers[order].astype(np.float32), labels[order].astype(np.float32)[:, None]
numbers = (numbers - numbers.mean(0)) / numbers.std(0)
TRAINING = 400


def model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1),
        ]
    )


def batches(seed):
    random = np.random.default_rng(seed)
    while True:
        chosen = random.integers(0, TRAINING, 32)
        yield numbers[chosen], labels[chosen]


def loss(logits, labels):
    return keras.ops.mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


def metric(logits, labels):
    return {"accuracy": ((logits > 0) == (labels > 0)).mean()}


task = Task(
    model=model,
    batches=batches,
    test=lambda: [(numbers[TRAINING:], labels[TRAINING:])],
    loss=loss,
    metric=metric,
    title="Tell benign from malignant tumours by 30 numbers",
    about="A hundred and sixty-nine test cases: differences of one or two of them are chance.",
    margin=0.02,
    steps=100,
)
