"""Trains a Keras model in JAX with optax and ``novograd.jax``, in a compiled step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from numpy.typing import NDArray

from novograd.compare.devices import CPU, DeviceError, missing, number
from novograd.compare.keras.models import VERSIONS, build
from novograd.compare.load import find_class
from novograd.compare.optimizers import OWN, Optimizer
from novograd.compare.task import Task
from novograd.compare.training import Trainer
from novograd.jax import novograd

_NAMES = {"beta1": "b1", "beta2": "b2", "epsilon": "eps"}
_KINDS: dict[str, Callable[..., Any]] = {
    "novograd": novograd,
    "adamw": optax.adamw,
    "nadamw": optax.nadamw,
    "adam": optax.adam,
    "sgd": optax.sgd,
}


def gpu_name(device: str) -> str:
    """Returns the name of a GPU; see ``novograd.compare.torch.gpu_name``."""
    return _gpu(device).device_kind


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
        jax.config.update("jax_default_device", _gpu(device))
    model = build(task, seed)
    # The last key is the variable's own name: NovoGrad finds the rows of an embedding by it.
    weights = {v.path: {v.name: v.value} for v in model.trainable_variables}
    others = [v.value for v in model.non_trainable_variables]
    weight_bytes = _bytes(weights)
    settings: dict[str, Any] = {
        _NAMES.get(name, name): value for name, value in optimizer.settings.items()
    }
    if optimizer.kind == "novograd":
        settings["variant"] = optimizer.variant
    settings |= optimizer.arguments
    make = find_class(optimizer.place) if optimizer.kind == OWN else _KINDS[optimizer.kind]
    transformation = partial(make, **settings)
    state = transformation(0.0).init(weights)

    def compute(weights: Any, others: Any, inputs: Any, targets: Any, training: bool) -> Any:
        # JAX sorts dictionaries; the model needs the order of its variables.
        values = [weights[v.path][v.name] for v in model.trainable_variables]
        outputs, others = model.stateless_call(values, others, inputs, training=training)
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
        versions={"jax": jax.__version__, "optax": optax.__version__, **VERSIONS},
    )


def _gpu(device: str) -> Any:
    try:
        gpus = jax.devices("cuda")
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"there is no {device!r}; JAX found no GPU: {reason}") from None
    if number(device) >= len(gpus):
        raise missing(device, "JAX", [gpu.device_kind for gpu in gpus])
    return gpus[number(device)]


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
