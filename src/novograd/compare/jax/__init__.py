"""Trains a model of Keras, Flax NNX or Equinox with optax and ``novograd.jax``, in a compiled step.

The modules of this package convert the models of each kind.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from numpy.typing import NDArray

from novograd import variants
from novograd.compare import kinds
from novograd.compare.devices import CPU, GPU, unusable
from novograd.compare.jax.model import Model
from novograd.compare.load import find_class
from novograd.compare.optimizers import OWN, Optimizer
from novograd.compare.task import Task
from novograd.compare.training import Trainer
from novograd.jax import novograd
from novograd.layers import Layers, layers_of

_NAMES = {"beta1": "b1", "beta2": "b2", "epsilon": "eps"}
_KINDS: dict[str, Callable[..., Any]] = {
    "novograd": novograd,
    "adamw": optax.adamw,
    "nadamw": optax.nadamw,
    "adam": optax.adam,
    "sgd": optax.sgd,
}


def require_gpu() -> None:
    """Checks that JAX can use the GPU; see ``novograd.compare.torch.require_gpu``."""
    try:
        jax.device_put(0.0, jax.devices(GPU)[0]).block_until_ready()
    except RuntimeError as error:
        raise unusable("JAX", error) from None


def trainer(task: Task, optimizer: Optimizer, seed: int, device: str = CPU) -> Trainer:
    """Builds a model and its optimizer.

    Args:
        task: The task, which builds the model.
        optimizer: The optimizer and its settings.
        seed: Seed of the initial weights.
        device: The device that trains.

    Returns:
        The trainer for ``novograd.compare.training.train``.
    """
    if device != CPU:
        jax.config.update("jax_default_device", jax.devices(device)[0])
    model = _converted(task.model(seed), seed)
    # Each step overwrites its arrays. The user's own arrays must stay.
    weights, others = jax.tree.map(lambda x: x.copy(), (model.weights, model.others))
    weight_bytes = _bytes(weights)
    settings: dict[str, Any] = {
        _NAMES.get(name, name): value for name, value in optimizer.settings.items()
    }
    layers: dict[str, Any] = {}
    if optimizer.kind == "novograd":
        settings["variant"] = optimizer.variant
        if model.rows is not None:
            layers["layers"] = partial(_layers, optimizer.variant, model.rows)
    settings |= optimizer.arguments
    make = find_class(optimizer.place) if optimizer.kind == OWN else _KINDS[optimizer.kind]
    transformation = partial(make, **layers, **settings)
    state = transformation(0.0).init(weights)

    def compute(weights: Any, others: Any, inputs: Any, targets: Any, training: bool) -> Any:
        outputs, others = model.call(weights, others, inputs, training)
        return task.loss(outputs, targets), (outputs, others)

    def updated(weights: Any, state: Any, rate: Any, gradients: Any) -> Any:
        # Built again in each step, because the learning rate is not part of the state.
        changes, state = transformation(rate).update(gradients, state, weights)
        return optax.apply_updates(weights, changes), state

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def train_step(weights: Any, state: Any, others: Any, rate: Any, *batch: Any) -> Any:
        compute_loss = jax.value_and_grad(partial(compute, training=True), has_aux=True)
        (loss, (_, others)), gradients = compute_loss(weights, others, *batch)
        return *updated(weights, state, rate, gradients), others, loss

    evaluate = jax.jit(partial(compute, training=False))
    update_alone = jax.jit(updated, donate_argnums=(0, 1))
    gradients: Any = None

    def step(learning_rate: float, inputs: Any, targets: Any) -> float:
        nonlocal weights, state, others
        weights, state, others, loss = train_step(
            weights, state, others, learning_rate, inputs, targets
        )
        return float(loss)  # waits for the whole compiled step

    def predict(inputs: Any, targets: Any) -> tuple[float, NDArray[Any]]:
        loss, (outputs, _) = evaluate(weights, others, inputs, targets)
        return float(loss), np.asarray(outputs)

    def update() -> None:
        nonlocal weights, state, gradients
        if gradients is None:
            gradients = jax.tree.map(jax.numpy.ones_like, weights)
        weights, state = jax.block_until_ready(update_alone(weights, state, 0.0, gradients))

    return Trainer(
        step,
        predict,
        update,
        state_bytes=lambda: _bytes(state),
        weight_bytes=weight_bytes,
        settings=settings,
        versions={"jax": jax.__version__, "optax": optax.__version__, **model.versions},
    )


def _converted(model: Any, seed: int) -> Model:
    kind = kinds.kind(model)
    return importlib.import_module(f"novograd.compare.jax.{kind}").converted(model, seed)


def _layers(variant: str, rows: int, _: Any, leaf: Any) -> Layers:
    """Returns the layers of a variant, for a weight whose output units are along an axis."""
    return layers_of(variants.get(variant).layers, (), leaf.shape, rows)


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
