"""Writes and resumes checkpoints of JAX, and of Keras on JAX, for test_exactness.py."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import flax.serialization
import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

from novograd import checkpoint
from novograd.jax import novograd
from novograd.keras import NovoGrad
from tests.checkpoint import training
from tests.checkpoint.training import IN_ORDER, LR, NAMES, SAVED, WEIGHT_DECAY, betas


def in_jax(optimizer, params, state, first):
    """Takes ten steps in JAX."""
    for number in range(first, first + SAVED):
        gradients = {n: jnp.asarray(g) for n, g in training.gradients(number).items()}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def arrays(params):
    return {n: np.array(params[n]) for n in NAMES}


def train_in_jax(folder, row, optimizer):
    params = {n: jnp.asarray(w) for n, w in training.start().items()}
    params, state = in_jax(optimizer, params, optimizer.init(params), 0)
    middle = arrays(params)
    content = {"params": params, "opt_state": state}
    (folder / f"{row}.source").write_bytes(flax.serialization.to_bytes(content))
    params, _ = in_jax(optimizer, params, state, SAVED)
    training.record(folder, row, middle, arrays(params))


@keras.saving.register_keras_serializable("tests")
class Weights(keras.layers.Layer):
    """A layer that only holds the weights."""

    def build(self, _):
        for name, shape in training.SHAPES.items():
            setattr(self, name, self.add_weight(shape=shape, name=name))

    def call(self, x):
        return x + self.gain


def new_model(weights):
    model = keras.Sequential([keras.Input((1,)), Weights(name="all")])
    model.set_weights([weights[name] for name in NAMES])
    return model


def in_keras(model, optimizer, first):
    for number in range(first, first + SAVED):
        gradients = [jnp.asarray(g) for g in training.gradients(number).values()]
        optimizer.apply(gradients, model.trainable_variables)


def model_arrays(model):
    return dict(zip(NAMES, (np.array(x) for x in model.get_weights()), strict=True))


def train_in_keras(folder, row, variant, suffix):
    model = new_model(training.start())
    beta_1, beta_2 = betas(variant)
    optimizer = NovoGrad(LR, beta_1, beta_2, weight_decay=WEIGHT_DECAY, variant=variant)
    model.compile(optimizer)
    in_keras(model, optimizer, 0)
    middle = model_arrays(model)
    model.save(folder / f"{row}{suffix}")
    in_keras(model, optimizer, SAVED)
    training.record(folder, row, middle, model_arrays(model))


def write(folder):
    """Makes every source of JAX and Keras, and converts it to the neutral form."""
    for variant in ("documented", "nvidia-amsgrad", "pytorch-optimizer-3", "rows"):
        row = f"jax, {variant}"
        b1, b2 = betas(variant)
        optimizer = novograd(LR, b1, b2, weight_decay=WEIGHT_DECAY, variant=variant)
        train_in_jax(folder, row, optimizer)
        training.neutral(folder, row, kind="jax", names=IN_ORDER, variant=variant)
        row = f"keras, {variant}"
        train_in_keras(folder, row, variant, ".keras")
        training.neutral(folder, row, ".keras", kind="keras", names=last_part)
    b1, b2 = betas("optax")
    train_in_jax(folder, "optax", optax.novograd(LR, b1, b2, weight_decay=WEIGHT_DECAY))
    training.neutral(folder, "optax", kind="optax", names=IN_ORDER)


def last_part(path):
    return path.split("/")[-1]


def resume_in_jax(folder, row, read):
    path = folder / f"{row}.msgpack"
    checkpoint.write(read, path, "jax")
    known = training.options(read)
    optimizer = novograd(
        known.lr,
        known.beta1,
        known.beta2,
        known.epsilon,
        known.weight_decay,
        known.grad_averaging,
        variant=read.variant,
    )
    params = {name: jnp.zeros(shape) for name, shape in training.SHAPES.items()}
    template = {"opt_state": optimizer.init(params), "params": params}
    saved = flax.serialization.from_bytes(template, path.read_bytes())
    state = jax.tree.map(jnp.asarray, saved["opt_state"])
    params, _ = in_jax(optimizer, saved["params"], state, SAVED)
    training.save(folder, row, "jax", arrays(params))


def resume_in_keras(folder, row, read):
    path = folder / f"{row}.h5"
    checkpoint.write(read, path, "keras")
    known = training.options(read)
    optimizer = NovoGrad(
        known.lr,
        known.beta1,
        known.beta2,
        known.epsilon,
        known.weight_decay,
        known.grad_averaging,
        variant=read.variant,
    )
    with h5py.File(path) as file:
        model = new_model({name: file[f"weights/{name}"][()] for name in NAMES})
        optimizer.build(model.trainable_variables)
        optimizer.load_own_variables(file["optimizer/vars"])
    in_keras(model, optimizer, SAVED)
    training.save(folder, row, "keras", model_arrays(model))


def resume(folder):
    """Continues from every source, as docs/checkpoints.md shows."""
    for row, read in training.sources(folder).items():
        resume_in_jax(folder, row, read)
        resume_in_keras(folder, row, read)


if __name__ == "__main__":
    {"write": write, "resume": resume}[sys.argv[1]](Path(sys.argv[2]))
