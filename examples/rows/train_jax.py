"""Train with the variant ``rows`` in JAX, with weight decay for matrices only.

python examples/rows/train_jax.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from novograd.jax import novograd

STEPS, WARMUP = 60, 6


def weights():
    random = np.random.default_rng(0)
    return {
        "hidden": {
            "kernel": jnp.asarray(random.normal(0, 1 / 8, (64, 64)), jnp.float32),
            "bias": jnp.zeros(64),
        },
        "norm": {"scale": jnp.ones(64), "bias": jnp.zeros(64)},
        "out": {
            "kernel": jnp.asarray(random.normal(0, 1 / 8, (64, 10)), jnp.float32),
            "bias": jnp.zeros(10),
        },
    }


def loss(params, images, labels):
    x = images @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    x = jax.nn.standardize(x) * params["norm"]["scale"] + params["norm"]["bias"]
    logits = jax.nn.relu(x) @ params["out"]["kernel"] + params["out"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    params = weights()
    optimizer = novograd(
        optax.warmup_cosine_decay_schedule(0.0, 0.003, WARMUP, STEPS + 1),
        # As with AdamW, the learning rate times weight_decay is what a step takes off.
        weight_decay=0.01,
        mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
        variant="rows",
    )
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(STEPS):
        params, state, value = step(params, state)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
