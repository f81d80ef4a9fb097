"""Checks of the lines that ``novograd convert`` prints: they load the written file in each target.

The tests of a target's framework run the lines in an empty folder.
"""

import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from novograd import variants
from novograd.checkpoint import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    how_to_load,
    read,
    write,
)
from novograd.layers import Rows

KNOWN = Hyperparameters(
    lr=0.5,
    beta1=0.75,
    beta2=0.375,
    epsilon=1e-4,
    weight_decay=0.125,
    grad_averaging=True,
    nesterov=False,
)
MINE = replace(
    variants.get("nvidia-amsgrad"), name="mine", decay="decoupled", clip=2.0, layers=Rows(0)
)


def made(shapes, variant, weights, rows=False):
    random = np.random.default_rng(0)
    array = lambda shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    entries = {}
    for name, shape in shapes.items():
        v = array((shape[0], *(1 for _ in shape[1:])) if rows else ()) ** 2
        v_max = v + 1 if variant.amsgrad else None
        entries[name] = Entry(array(shape), v, v_max, 7, array(shape) if weights else None)
    return Checkpoint(entries, variant, (Group(tuple(shapes), KNOWN),))


def check(checkpoint, names, find):
    """Compares the state and weights of an optimizer with the written checkpoint."""
    for name in names:
        entry = checkpoint.entries[name]
        for part in ("moment", "v", *(["v_max"] if entry.v_max is not None else [])):
            np.testing.assert_array_equal(find(name, part), getattr(entry, part))
        if entry.weights is not None:
            np.testing.assert_array_equal(find(name, "weights"), entry.weights)


def run(checkpoint, kind, scope):
    """Writes a checkpoint, and runs the lines that load it."""
    folder = Path("folder's")  # the apostrophe makes Python use double quotes
    path = folder / f"{len([*folder.iterdir()])}.file"
    write(checkpoint, path, kind)
    exec(how_to_load(checkpoint, path, kind), scope)
    return scope


def in_torch(checkpoints):
    import torch

    import novograd.torch

    for checkpoint in checkpoints({"weight": (1, 2), "bias": (1,)}):
        scope = {"model": torch.nn.Linear(2, 1), "torch": torch, "novograd": novograd}
        optimizer = run(checkpoint, "torch", scope)["optimizer"]
        params = dict(scope["model"].named_parameters())
        keys = {"moment": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

        def find(name, part, params=params, keys=keys, optimizer=optimizer):
            if part == "weights":
                return params[name].detach().numpy()
            return optimizer.state[params[name]][keys[part]].numpy()

        check(checkpoint, params, find)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.75, 0.375), 1e-4)
        scope["model"](torch.ones(3, 2)).sum().backward()
        optimizer.step()


def in_jax(checkpoints):
    import pathlib

    import flax.serialization
    import jax
    import jax.numpy as jnp

    import novograd.jax

    shapes = {"kernel": (2, 1), "bias": (1,)}
    for checkpoint in checkpoints(shapes):
        params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        scope = {"flax": flax, "novograd": novograd, "params": params, "pathlib": pathlib}
        run(checkpoint, "jax", scope)
        saved, weights = scope["state"], None
        if isinstance(saved, dict):
            saved, weights = saved["opt_state"], saved["params"]
        parts = {"moment": saved.mu, "v": saved.nu, "v_max": saved.nu_max, "weights": weights}
        check(checkpoint, shapes, lambda name, part, parts=parts: parts[part][name])
        known = [str(x) for x in (0.5, 0.75, 0.375, 1e-4, 0.125)]
        lines = how_to_load(checkpoint, "x", "jax")
        assert all(f"={value}" in lines for value in known), lines
        scope["optimizer"].update(params, jax.tree.map(jnp.asarray, saved), params)


def in_keras(checkpoints):
    import h5py
    import keras

    import novograd.keras

    shapes = {"dense/kernel": (2, 1), "dense/bias": (1,)}
    for checkpoint in checkpoints(shapes):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
        run(checkpoint, "keras", {"h5py": h5py, "novograd": novograd, "model": model})
        optimizer, n = model.optimizer, 3 if checkpoint.variant.amsgrad else 2
        state = [np.asarray(x) for x in optimizer.variables][2:]
        weights = dict(zip(shapes, map(np.asarray, model.trainable_variables), strict=True))

        def find(name, part, state=state, weights=weights, n=n):
            if part == "weights":
                return weights[name]
            return state[[*weights].index(name) * n + ("moment", "v", "v_max").index(part)]

        check(checkpoint, weights, find)
        assert (float(np.asarray(optimizer.learning_rate)), optimizer.beta_1) == (0.5, 0.75)
        assert (optimizer.epsilon, optimizer.weight_decay) == (1e-4, 0.125)
        assert optimizer.variant == checkpoint.variant
        model.compile(optimizer, loss="mse")
        model.train_on_batch(np.ones((3, 2)), np.ones((3, 1)))


def in_tensorflow(checkpoints):
    import tensorflow as tf

    import novograd.tensorflow

    tf1 = tf.compat.v1
    for checkpoint in checkpoints({"kernel": (2, 1), "bias": (1,)}):
        if checkpoint.variant != variants.DOCUMENTED:
            continue
        with tf.Graph().as_default(), tf1.Session() as session:
            weights = {
                name: tf1.get_variable(name, shape=entry.moment.shape)
                for name, entry in checkpoint.entries.items()
            }
            scope = {"tf": tf, "novograd": novograd, "session": session}
            scope["loss"] = sum(tf.reduce_sum(w**2) for w in weights.values())
            if any(entry.weights is None for entry in checkpoint.entries.values()):
                session.run([w.initializer for w in weights.values()])
            optimizer = run(checkpoint, "tensorflow", scope)["optimizer"]

            def find(name, part, weights=weights, optimizer=optimizer, session=session):
                slot = {"moment": "momentum", "v": "v"}.get(part)
                found = optimizer.get_slot(weights[name], slot) if slot else weights[name]
                return session.run(found)

            check(checkpoint, weights, find)
            assert session.run(scope["step"]) == 7
            session.run(scope["train"])


def in_safetensors(checkpoints):
    for checkpoint in checkpoints({"kernel": (2, 1), "bias": (1,)}):
        state = run(checkpoint, "safetensors", {})["state"]
        parts = checkpoint.entries
        check(state, parts, lambda name, part, parts=parts: getattr(parts[name], part))


def checkpoints(shapes):
    """Yields checkpoints of four variants (one is custom), each with and without weights."""
    for variant in (variants.DOCUMENTED, variants.get("optax"), variants.get("rows"), MINE):
        for weights in (False, True):
            yield made(shapes, variant, weights)


def check_target(target, folder, monkeypatch):
    """Runs the lines of a target in an empty folder, and checks writing to a full disk."""
    monkeypatch.chdir(folder)
    Path("folder's").mkdir()
    CHECKS[target](checkpoints)
    _refuse_to_write(target)


def _refuse_to_write(kind):
    """Checks that writing to a full disk raises our error and keeps the existing file."""
    checkpoint = made({"kernel": (500, 20), "bias": (1,)}, variants.DOCUMENTED, weights=True)
    path = Path("there")
    write(checkpoint, path, kind)
    before = {file.name: file.read_bytes() for file in Path().glob("there*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises((OSError, CheckpointError), match="there") as refused:
            write(checkpoint, path, kind, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large" in str(refused.value)
    assert {file.name: file.read_bytes() for file in Path().glob("there*")} == before
    assert {file.name for file in Path().iterdir()} == {"folder's", *before}
    assert read(path, {"tensorflow": "tf1"}.get(kind, kind)).step in (7, None)


CHECKS = {
    "torch": in_torch,
    "jax": in_jax,
    "keras": in_keras,
    "tensorflow": in_tensorflow,
    "safetensors": in_safetensors,
}
