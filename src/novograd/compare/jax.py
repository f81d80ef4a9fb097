"""The network in JAX, trained by optax and ``novograd.jax`` in a compiled step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from numpy.typing import NDArray

from novograd.compare.brain import Slices
from novograd.compare.keras import VERSIONS, loss_of, size, unet
from novograd.compare.training import Trainer
from novograd.jax import novograd

OPTIMIZERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "novograd": (novograd, {"b1": 0.95, "b2": 0.98, "weight_decay": 1e-3}),
    "adam": (optax.adam, {}),
    "momentum": (optax.sgd, {"momentum": 0.9, "nesterov": True}),
}


def trainer(optimizer: str, seed: int) -> Trainer:
    """Builds the network and an optimizer of it.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        seed: Seeds the initial weights.

    Returns:
        What ``novograd.compare.training.train`` needs.
    """
    model = unet(seed)
    build, settings = OPTIMIZERS[optimizer]
    weights = [variable.value for variable in model.trainable_variables]
    weight_bytes = size(weights)
    state = build(0.0, **settings).init(weights)

    def loss_and_logits(weights: Any, images: Any, labels: Any, training: bool) -> Any:
        logits, _ = model.stateless_call(weights, [], images, training=training)
        return loss_of(logits, labels), logits

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(weights: Any, state: Any, rate: Any, images: Any, labels: Any) -> Any:
        compute = partial(loss_and_logits, training=True)
        (loss, _), gradients = jax.value_and_grad(compute, has_aux=True)(weights, images, labels)
        # Built anew around each step's rate, which is no part of the state.
        changes, state = build(rate, **settings).update(gradients, state, weights)
        return optax.apply_updates(weights, changes), state, loss

    evaluate = jax.jit(partial(loss_and_logits, training=False))

    def step(learning_rate: float, batch: Slices) -> float:
        nonlocal weights, state
        weights, state, loss = train_step(weights, state, learning_rate, *batch)
        return float(loss)

    def predict(slices: Slices) -> tuple[float, NDArray[np.floating]]:
        loss, logits = evaluate(weights, *slices)
        return float(loss), np.asarray(logits)

    return Trainer(
        step,
        predict,
        state_bytes=lambda: size(jax.tree.leaves(state)),
        weight_bytes=weight_bytes,
        settings=settings,
        versions={"jax": jax.__version__, "optax": optax.__version__, **VERSIONS},
    )
