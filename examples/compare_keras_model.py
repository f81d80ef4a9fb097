"""Compare optimizers on your own Keras model, with any backend of Keras.

    novograd compare examples/compare_keras_model.py --framework jax --quick

The data is scikit-learn's breast cancer set: 569 tumours, benign or malignant, 30 numbers each.
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
    title="Classify tumours as benign or malignant from 30 numbers",
    about="169 test cases: differences of one or two cases are chance.",
    margin=0.02,
    steps=100,
)
