"""Trains a small network for ten steps, and saves it after five.

``resumable_training.py FILE OTHERS...`` trains to the end, and saves the model after five steps.
When it has read a line, it continues from each other file to the end. It uses the backend that
KERAS_BACKEND names. It prints a list of the final weights and optimizer variables of its own run,
then one of the other runs.
"""

import json
import sys

import keras
import numpy as np

import novograd.keras

SAVED, STEPS = 5, 10
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.standard_normal((STEPS, 8, 5)).astype(np.float32)
TARGETS = RANDOM.standard_normal((STEPS, 8, 1)).astype(np.float32)


def new_model():
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    )
    random = np.random.default_rng(1)
    model.set_weights([random.standard_normal(w.shape) for w in model.get_weights()])
    # The rate changes so fast that a step with the wrong iteration number gives other weights.
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.8)
    optimizer = novograd.keras.NovoGrad(schedule, weight_decay=0.01, nesterov=True)
    model.compile(optimizer, loss="mse", jit_compile=False)  # ten steps end before a compilation
    return model


def train(model, start, stop):
    for x, y in zip(INPUTS[start:stop], TARGETS[start:stop], strict=True):
        model.train_on_batch(x, y)


def state(model):
    variables = [*model.trainable_variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(x)).tolist() for x in variables]


def save(path):
    model = new_model()
    train(model, 0, SAVED)
    model.save(path)
    train(model, SAVED, STEPS)
    return state(model)


def resume(path):
    model = keras.saving.load_model(path)
    train(model, int(model.optimizer.iterations), STEPS)
    return state(model)


if __name__ == "__main__":
    mine, *others = sys.argv[1:]
    print(json.dumps([save(mine)]), flush=True)
    sys.stdin.readline()  # now all files exist
    print(json.dumps([resume(path) for path in others]))
