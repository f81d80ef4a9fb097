"""Train with NovoGrad in a loop of Flax NNX, with gradient clipping and a schedule from optax.

python examples/hosts/flax_nnx.py
"""

import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from novograd.jax import novograd

STEPS = 60


class Model(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images):
        return self.out(nnx.relu(self.hidden(images)))


@nnx.jit
def step(model, optimizer, images, labels):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    model = Model(nnx.Rngs(0))
    schedule = optax.cosine_decay_schedule(0.01, STEPS)
    transformation = optax.chain(
        optax.clip_by_global_norm(1.0), novograd(schedule, weight_decay=1e-3)
    )
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    losses = [float(step(model, optimizer, images, labels)) for _ in range(STEPS)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
