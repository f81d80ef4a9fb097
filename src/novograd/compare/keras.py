"""What the frameworks share: the network and its loss, in Keras with any backend."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from novograd.compare.brain import CLASSES

layers: Any = keras.layers  # Any: what Keras declares of types is too narrow
ops: Any = keras.ops
VERSIONS = {"keras": keras.__version__, "numpy": np.__version__}


def unet(seed: int, widths: tuple[int, ...] = (8, 16, 32)) -> Any:
    """Builds the U-Net: per level two 3x3 convolutions, each with instance norm and ReLU.

    Args:
        seed: Seeds the initial weights, which are the same with every backend.
        widths: Channels per level; the image is halved between levels.

    Returns:
        A Keras model from ``(batch, height, width)`` to logits ``(batch, height, width, 4)``,
        height and width being multiples of 4 for the default widths.
    """
    random = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], dtype: str) -> Any:
        # Keras's default, Glorot's uniform distribution. Its own code draws other numbers with
        # each backend, and under JAX it takes ten seconds to compile.
        limit = math.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:])))
        return ops.convert_to_tensor(random.uniform(-limit, limit, shape), dtype)

    def block(x: Any, width: int) -> Any:
        for _ in range(2):
            # No bias: the norm that follows would remove it.
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=draw)(x)
            x = layers.ReLU()(layers.GroupNormalization(groups=-1)(x))
        return x

    image = keras.Input((None, None))
    x: Any = ops.expand_dims(image, -1)
    skips = []
    for width in widths[:-1]:
        skips.append(block(x, width))
        x = layers.MaxPooling2D()(skips[-1])
    x = block(x, widths[-1])
    for width, skip in zip(widths[-2::-1], reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, strides=2, kernel_initializer=draw)(x)
        x = block(layers.Concatenate()([x, skip]), width)
    return keras.Model(image, layers.Conv2D(len(CLASSES) + 1, 1, kernel_initializer=draw)(x))


def loss_of(logits: Any, labels: Any) -> Any:
    """Cross-entropy plus one minus the soft Dice of the three tissues.

    Args:
        logits: Shape ``(batch, height, width, 4)``.
        labels: uint8, shape ``(batch, height, width)``.

    Returns:
        The mean over the batch, a scalar.
    """
    truth = ops.one_hot(labels, logits.shape[-1])
    entropy = ops.mean(ops.categorical_crossentropy(truth, logits, from_logits=True))
    guess = ops.softmax(logits)
    both = ops.sum(truth * guess, axis=(0, 1, 2))
    each = ops.sum(truth + guess, axis=(0, 1, 2))
    return entropy + 1 - ops.mean(2 * both[1:] / each[1:])


def size(tensors: Iterable[Any]) -> int:
    """Counts the bytes of tensors or variables."""
    return sum(ops.convert_to_numpy(tensor).nbytes for tensor in tensors)
