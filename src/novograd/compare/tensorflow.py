"""Trains a Keras model in TensorFlow, in a ``tf.function``.

The documented NovoGrad is ``novograd.tensorflow.NovoGrad``. Adam and SGD are TensorFlow's own
optimizers of the same kind (``tf.compat.v1.train``). Other variants of NovoGrad, AdamW and NAdamW
do not exist in this form, so these are Keras classes. Each optimizer updates the real variables
with its own ``apply_gradients``.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import novograd.keras
import novograd.tensorflow
from novograd.compare.devices import CPU, require
from novograd.compare.load import find_class
from novograd.compare.optimizers import OWN, Optimizer
from novograd.compare.task import Task
from novograd.compare.training import Trainer

_NAMES = {"beta1": "beta_1", "beta2": "beta_2"}
_KERAS: dict[str, Any] = {
    "novograd": novograd.keras.NovoGrad,
    "adamw": keras.optimizers.AdamW,
    "nadamw": keras.optimizers.Nadam,
}
_TENSORFLOW: dict[str, Any] = {
    "novograd": novograd.tensorflow.NovoGrad,
    "adam": tf.compat.v1.train.AdamOptimizer,
    "sgd": tf.compat.v1.train.MomentumOptimizer,
}


def trainer(task: Task, optimizer: Optimizer, seed: int, device: str = CPU) -> Trainer:
    """Builds a model and its optimizer.

    Args:
        task: The task, which builds the model.
        optimizer: The optimizer and its settings.
        seed: Seed of the initial weights.
        device: The CPU; this trainer does not support GPUs.

    Returns:
        The trainer for ``novograd.compare.training.train``.
    """
    require("tensorflow", device)
    model = task.model(seed)
    variables = model.trainable_variables
    weights = [variable.value for variable in variables]
    rate = tf.Variable(tf.constant(0.0), trainable=False)
    settings: dict[str, Any] = dict(optimizer.settings)
    by_keras = optimizer.variant != "documented" or optimizer.kind not in _TENSORFLOW
    if by_keras:
        settings = {_NAMES.get(name, name): value for name, value in settings.items()}
        if optimizer.kind == "novograd":
            settings["variant"] = optimizer.variant
        settings |= optimizer.arguments
        make = find_class(optimizer.place) if optimizer.kind == OWN else _KERAS[optimizer.kind]
        update = make(lambda: rate, **settings)
        update.build(variables)  # a graph cannot create variables
    else:
        if "nesterov" in settings:
            settings["use_nesterov"] = settings.pop("nesterov")
        settings |= optimizer.arguments
        update = _TENSORFLOW[optimizer.kind](rate, **settings)

    def apply(gradients: list[Any]) -> None:
        updated = variables if by_keras else weights
        update.apply_gradients(list(zip(gradients, updated, strict=True)))

    @tf.function
    def train_step(inputs: Any, targets: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = task.loss(model(inputs, training=True), targets)
        apply(tape.gradient(loss, weights))
        return loss

    @tf.function
    def evaluate(inputs: Any, targets: Any) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = model(inputs, training=False)
        return task.loss(outputs, targets), outputs

    @tf.function
    def update_alone() -> None:
        apply([tf.ones_like(weight) for weight in weights])

    def step(learning_rate: float, inputs: Any, targets: Any) -> float:
        rate.assign(learning_rate)
        return float(train_step(*_tensors((inputs, targets))))

    def predict(inputs: Any, targets: Any) -> tuple[float, NDArray[Any]]:
        loss, outputs = evaluate(*_tensors((inputs, targets)))
        return float(loss), outputs.numpy()

    def update_with_nothing() -> None:
        rate.assign(0.0)
        update_alone()

    return Trainer(
        step,
        predict,
        update_with_nothing,
        state_bytes=lambda: _bytes(update.variables if by_keras else update.variables()),
        weight_bytes=_bytes(weights),
        settings=settings,
        versions={"tensorflow": tf.__version__, "keras": keras.__version__},
    )


def _tensors(x: Any) -> Any:
    return tf.nest.map_structure(tf.convert_to_tensor, x)


def _bytes(variables: Any) -> int:
    return sum(np.asarray(variable).nbytes for variable in variables)
