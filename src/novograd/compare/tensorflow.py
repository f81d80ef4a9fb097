"""One training run in TensorFlow: a small 2-D U-Net in Keras, trained by a v1 optimizer.

The optimizers are TensorFlow's own objects and the documented ``novograd.tensorflow.NovoGrad``;
each updates the real variables through its own ``apply_gradients``. All of them get the same
initial weights, the same batches and the same course of the learning rate.
"""

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from novograd.compare import brain
from novograd.tensorflow import NovoGrad

OPTIMIZERS: dict[str, tuple[type[tf.compat.v1.train.Optimizer], dict[str, Any]]] = {
    "novograd": (NovoGrad, {"beta1": 0.95, "beta2": 0.98, "weight_decay": 1e-3}),
    "adam": (tf.compat.v1.train.AdamOptimizer, {}),
    "momentum": (tf.compat.v1.train.MomentumOptimizer, {"momentum": 0.9, "use_nesterov": True}),
}
WARMUP = 10  # steps
EVALUATIONS = 5  # times the test slices are looked at in a run, the end included


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: a linear rise over 10 steps, then half a cosine wave down.

    Args:
        step: The step, from 1.
        steps: Number of steps of the run.
        peak: The highest learning rate.

    Returns:
        The learning rate; it would reach 0 in the step after the last.
    """
    if step <= WARMUP:
        return peak * step / WARMUP
    return peak * (1 + math.cos(math.pi * (step - WARMUP) / (steps + 1 - WARMUP))) / 2


def unet(classes: int, widths: tuple[int, ...] = (8, 16, 32)) -> keras.Model:
    """Builds the U-Net: per level two 3x3 convolutions, each with instance norm and ReLU.

    Args:
        classes: Number of output channels.
        widths: Channels per level; the image is halved between levels.

    Returns:
        A model from ``(batch, height, width, 1)`` to logits ``(batch, height, width, classes)``,
        height and width being multiples of 4 for the default widths.
    """
    layers = keras.layers

    def block(x: Any, width: int) -> Any:
        for _ in range(2):
            # No bias: the norm that follows would remove it.
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.GroupNormalization(groups=-1)(x))
        return x

    image = keras.Input((None, None, 1))
    x: Any = image
    skips = []
    for width in widths[:-1]:
        skips.append(block(x, width))
        x = layers.MaxPooling2D()(skips[-1])
    x = block(x, widths[-1])
    for width, skip in zip(widths[-2::-1], reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = block(layers.Concatenate()([x, skip]), width)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))


def loss_of(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross-entropy plus one minus the soft Dice of the three tissues.

    Args:
        logits: Shape ``(batch, height, width, 4)``.
        labels: uint8, shape ``(batch, height, width)``.

    Returns:
        The mean over the batch, a scalar.
    """
    truth = tf.one_hot(labels, logits.shape[-1])
    entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(truth, logits))
    guess = tf.nn.softmax(logits)
    both = tf.reduce_sum(truth * guess, axis=[0, 1, 2])
    each = tf.reduce_sum(truth + guess, axis=[0, 1, 2])
    return entropy + 1 - tf.reduce_mean(2 * both[1:] / each[1:])


def train(optimizer: str, learning_rate: float, seed: int, steps: int) -> Iterator[dict[str, Any]]:
    """Trains on the brain task, on the CPU with one thread, and tells how it goes.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        learning_rate: The highest learning rate of the schedule.
        seed: Seeds the initial weights, the damage to the training slices, and the batches.
        steps: Number of steps, at least 1.

    Yields:
        ``{"event": "step", "step", "loss"}`` after each step, steps counted from 1;
        ``{"event": "evaluation", "step", "test_loss", "dice", "mean_dice"}`` five times (or after
        each step of a shorter run), the last step included;
        and last ``{"event": "result", "status", ...}``: the status is ``"finished"``, with what was
        measured, or ``"diverged"``, with ``"diverged_at"``, the step whose loss was not finite.
    """
    tf.config.set_visible_devices([], "GPU")  # the same job everywhere, and two fit one machine
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(seed)

    training, test = brain.load(seed)
    batches = brain.batches(training, seed)
    model = unet(len(brain.CLASSES) + 1)
    weights = [weight.value for weight in model.trainable_variables]
    rate = tf.Variable(tf.constant(0.0), trainable=False)
    build, settings = OPTIMIZERS[optimizer]
    trainer = build(rate, **settings)

    @tf.function
    def train_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(model(tf.expand_dims(images, -1), training=True), labels)
        trainer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    @tf.function
    def predict(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model(tf.expand_dims(images, -1), training=False)
        return loss_of(logits, labels), tf.argmax(logits, axis=-1, output_type=tf.int32)

    def evaluate() -> dict[str, Any]:
        loss, predicted = predict(*map(tf.convert_to_tensor, test))
        scores = brain.dice(predicted.numpy(), test.labels)
        mean = statistics.mean(scores.values())
        return {"test_loss": float(loss), "dice": scores, "mean_dice": mean}

    milestones = {round(steps * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)}
    seconds, found = [], {}
    for step, batch in enumerate(itertools.islice(batches, steps), start=1):
        start = time.perf_counter()
        rate.assign(schedule(step, steps, learning_rate))
        loss = float(train_step(*map(tf.convert_to_tensor, batch)))
        seconds.append(time.perf_counter() - start)
        if step in milestones:
            found = evaluate()
        if not math.isfinite(loss + found.get("test_loss", 0)):
            yield {"event": "result", "status": "diverged", "diverged_at": step}
            return
        yield {"event": "step", "step": step, "loss": loss}
        if step in milestones:
            yield {"event": "evaluation", "step": step, **found}
    yield {
        "event": "result",
        "status": "finished",
        **found,
        "step_ms": 1000 * statistics.median(seconds),
        "state_bytes": _bytes(trainer.variables()),
        "weight_bytes": _bytes(weights),
        "settings": settings,
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }


def _bytes(variables: Sequence[tf.Variable]) -> int:
    return sum(variable.numpy().nbytes for variable in variables)
