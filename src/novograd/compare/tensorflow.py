"""The network in TensorFlow, trained by v1 optimizers in a ``tf.function``.

The optimizers are TensorFlow's own objects and the documented ``novograd.tensorflow.NovoGrad``;
each updates the real variables through its own ``apply_gradients``.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from novograd.compare.brain import Slices
from novograd.compare.keras import VERSIONS, loss_of, size, unet
from novograd.compare.training import Trainer
from novograd.tensorflow import NovoGrad

OPTIMIZERS: dict[str, tuple[type[tf.compat.v1.train.Optimizer], dict[str, Any]]] = {
    "novograd": (NovoGrad, {"beta1": 0.95, "beta2": 0.98, "weight_decay": 1e-3}),
    "adam": (tf.compat.v1.train.AdamOptimizer, {}),
    "momentum": (tf.compat.v1.train.MomentumOptimizer, {"momentum": 0.9, "use_nesterov": True}),
}


def trainer(optimizer: str, seed: int) -> Trainer:
    """Builds the network and an optimizer of it.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        seed: Seeds the initial weights.

    Returns:
        What ``novograd.compare.training.train`` needs.
    """
    tf.config.set_visible_devices([], "GPU")  # the same job everywhere, and two fit one machine
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = unet(seed)
    weights = [weight.value for weight in model.trainable_variables]
    rate = tf.Variable(tf.constant(0.0), trainable=False)
    build, settings = OPTIMIZERS[optimizer]
    update = build(rate, **settings)

    @tf.function
    def train_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(model(images, training=True), labels)
        update.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    @tf.function
    def evaluate(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model(images, training=False)
        return loss_of(logits, labels), logits

    def step(learning_rate: float, batch: Slices) -> float:
        rate.assign(learning_rate)
        return float(train_step(*map(tf.convert_to_tensor, batch)))

    def predict(slices: Slices) -> tuple[float, NDArray[np.floating]]:
        loss, logits = evaluate(*map(tf.convert_to_tensor, slices))
        return float(loss), logits.numpy()

    return Trainer(
        step,
        predict,
        state_bytes=lambda: size(update.variables()),
        weight_bytes=size(weights),
        settings=settings,
        versions={"tensorflow": tf.__version__, **VERSIONS},
    )
