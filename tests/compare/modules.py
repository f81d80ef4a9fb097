"""Trains modules of Equinox and Flax NNX: ``python -m tests.compare.modules``; prints JSON.

JAX has its own process, because other tests use PyTorch. Equinox comes first, so that the output
shows which packages a comparison imports.
"""

import importlib
import itertools
import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from novograd.compare import Task
from novograd.compare.errors import TaskError
from novograd.compare.frameworks import trainer
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.trial import tried

STEPS, RATE = 4, 0.03
CHARACTERS, WIDTH, CLASSES = 7, 4, 3
random = np.random.default_rng(0)
NUMBERS = random.integers(0, CHARACTERS, 16)
INPUTS = random.standard_normal((16, WIDTH)).astype(np.float32)
TARGETS = random.standard_normal((16, CLASSES)).astype(np.float32)
EMBEDDING, HIDDEN, OUT = (
    random.standard_normal(shape).astype(np.float32)
    for shape in ((CHARACTERS, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES))
)  # matrices in the layout of Flax: inputs, outputs


def task(model, inputs=INPUTS):
    return Task(
        model=model,
        batches=lambda seed: itertools.repeat((inputs, TARGETS)),
        test=lambda: [(inputs, TARGETS)],
        loss=lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
        metric=lambda outputs, targets: {"error": np.mean((outputs - targets) ** 2)},
        higher_is_better=False,
    )


def trained(model, inputs=INPUTS, optimizer="novograd:rows"):
    """Returns what a short run shows."""
    made = trainer(task(model, inputs), "jax", OPTIMIZERS[optimizer], 0, "cpu")
    losses = [made.step(RATE, inputs, TARGETS) for _ in range(STEPS)]
    predicted = [made.predict(inputs, TARGETS) for _ in range(2)]
    made.update()
    return {
        "losses": losses,
        "loss": predicted[0][0],
        "same": bool(np.array_equal(predicted[0][1], predicted[1][1])),
        "mean": float(np.mean(predicted[0][1])),
        "state_bytes": made.state_bytes(),
        "weight_bytes": made.weight_bytes,
        "versions": sorted(made.versions),
    }


def updates(kind, built):
    """Returns whether a call updates the statistics of a module: in training, in a prediction."""
    model = importlib.import_module(f"novograd.compare.jax.{kind}").converted(built, 0)

    def statistics(others):
        leaves = jax.tree.leaves(others)
        return np.concatenate([x.ravel() for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)])

    def after(training):
        others = jax.tree.map(lambda x: x, model.others)  # Equinox refuses a state used twice
        return statistics(model.call(model.weights, others, INPUTS, training)[1])

    before = statistics(model.others)
    return [not np.array_equal(before, after(training)) for training in (True, False)]


class EquinoxNetwork(eqx.Module):
    """An embedding and two matrices."""

    embedding: eqx.nn.Embedding
    layers: tuple[eqx.nn.Linear, eqx.nn.Linear]

    def __call__(self, inputs):
        number, x = inputs
        x = jnp.tanh(self.layers[0](self.embedding(number) + x))
        return self.layers[1](x)


def equinox_network(seed):
    embedding = eqx.nn.Embedding(weight=jnp.asarray(EMBEDDING))
    matrices = []
    for weight in (HIDDEN, OUT):
        empty = eqx.nn.Linear(*weight.shape, key=jax.random.key(0))
        biases = jnp.zeros_like(empty.bias)
        given = lambda linear: (linear.weight, linear.bias)  # noqa: E731
        matrices.append(eqx.tree_at(given, empty, (jnp.asarray(weight.T), biases)))
    return EquinoxNetwork(embedding, tuple(matrices))


class EquinoxStateful(eqx.Module):
    """Batch statistics, and dropout that needs a key."""

    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(WIDTH, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.out = eqx.nn.Linear(WIDTH, CLASSES, key=key)

    def __call__(self, x, state, *, key):
        x, state = self.norm(x, state)
        return self.out(self.dropout(x, key=key)), state


def equinox_stateful(seed):
    return eqx.nn.make_with_state(EquinoxStateful)(jax.random.key(seed))


def flax_modules():
    """Returns the same models in Flax NNX."""
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(CHARACTERS, WIDTH, rngs=rngs)
            self.hidden = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.out = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
            self.embed.embedding[...] = jnp.asarray(EMBEDDING)
            self.hidden.kernel[...] = jnp.asarray(HIDDEN)
            self.out.kernel[...] = jnp.asarray(OUT)

        def __call__(self, inputs):
            numbers, x = inputs
            x = self.hidden(self.embed(numbers) + x)
            self.sow(nnx.Intermediate, "seen", x)
            return self.out(jnp.tanh(x))

    class Stateful(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.out = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(self.norm(x)))

    return Network, Stateful, nnx.Rngs


def described(model, inputs=INPUTS):
    try:
        return tried(task(model, inputs), None, "cpu", STEPS, {}).framework
    except TaskError as error:
        return str(error)


def main():
    both = (NUMBERS, INPUTS)
    kept = equinox_network(0)
    found = {
        "equinox": {
            "described": described(equinox_network, both),
            "rows": trained(lambda seed: kept, both),
            "documented": trained(lambda seed: kept, both, "novograd"),
            "stateful": trained(equinox_stateful),
            "again": trained(equinox_stateful),
            "updates": updates("equinox", equinox_stateful(0)),
            "without state": described(lambda seed: equinox_stateful(seed)[0]),
            "kept": bool(jnp.array_equal(kept.layers[0].weight, HIDDEN.T)),
            "imported": [name for name in ("flax", "keras") if name in sys.modules],
        }
    }
    network, stateful, rngs = flax_modules()
    kept = network(rngs(0))
    found["flax"] = {
        "described": described(lambda seed: network(rngs(seed)), both),
        "rows": trained(lambda seed: kept, both),
        "documented": trained(lambda seed: kept, both, "novograd"),
        "stateful": trained(lambda seed: stateful(rngs(seed))),
        "again": trained(lambda seed: stateful(rngs(seed))),
        "updates": updates("flax", stateful(rngs(0))),
        "kept": bool(jnp.array_equal(kept.hidden.kernel[...], HIDDEN)),
        "imported": [name for name in ("keras",) if name in sys.modules],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
