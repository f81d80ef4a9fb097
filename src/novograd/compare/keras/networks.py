"""The networks of the built-in tasks, in Keras with any Keras backend.

NumPy draws the initial weights: Keras's own code draws different numbers with each backend, and
takes ten seconds to compile under JAX.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

layers: Any = keras.layers  # Any: Keras's type annotations are too narrow
ops: Any = keras.ops
Draw = Callable[[tuple[int, ...], str], Any]


def unet(
    seed: int, classes: int, dimensions: int = 2, widths: tuple[int, ...] = (8, 16, 32)
) -> Any:
    """Builds a U-Net: per level two convolutions of width 3, each with instance norm and ReLU.

    Args:
        seed: Seed of the initial weights.
        classes: Number of classes, including the background.
        dimensions: Number of dimensions of the image, 2 or 3.
        widths: Channels per level; the image is halved between levels.

    Returns:
        A Keras model from images ``(batch, *sides)`` to logits ``(batch, *sides, classes)``. The
        sides must be multiples of ``2 ** (len(widths) - 1)``.
    """
    kernel = {"kernel_initializer": glorot(seed)}
    convolution, transposed, pooling = {
        2: (layers.Conv2D, layers.Conv2DTranspose, layers.MaxPooling2D),
        3: (layers.Conv3D, layers.Conv3DTranspose, layers.MaxPooling3D),
    }[dimensions]

    def block(x: Any, width: int) -> Any:
        for _ in range(2):
            # No bias: the next norm would remove it.
            x = convolution(width, 3, padding="same", use_bias=False, **kernel)(x)
            x = layers.ReLU()(layers.GroupNormalization(groups=-1)(x))
        return x

    image = keras.Input((None,) * dimensions)
    x: Any = ops.expand_dims(image, -1)
    skips = []
    for width in widths[:-1]:
        skips.append(block(x, width))
        x = pooling()(skips[-1])
    x = block(x, widths[-1])
    for width, skip in zip(widths[-2::-1], reversed(skips), strict=True):
        x = transposed(width, 2, strides=2, **kernel)(x)
        x = block(layers.Concatenate()([x, skip]), width)
    return keras.Model(image, convolution(classes, 1, **kernel)(x))


def convolutional(seed: int, side: int, widths: tuple[int, ...], classes: int) -> Any:
    """Builds a classifier of grey images: convolutions that halve the image, two dense layers.

    Args:
        seed: Seed of the initial weights.
        side: Height and width of the images, a multiple of ``2 ** (len(widths) - 1)``.
        widths: Channels of the convolutions; the last number is the width of the hidden dense
            layer.
        classes: Number of classes.

    Returns:
        A Keras model from images ``(batch, side, side)`` to logits ``(batch, classes)``.
    """
    kernel = {"kernel_initializer": glorot(seed)}
    image = keras.Input((side, side))
    x: Any = ops.expand_dims(image, -1)
    for width in widths[:-1]:
        x = layers.Conv2D(width, 3, padding="same", activation="relu", **kernel)(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(widths[-1], activation="relu", **kernel)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(classes, **kernel)(x))


def separable(seed: int, frames: int, coefficients: int, classes: int, width: int = 64) -> Any:
    """Builds a classifier of recordings: a QuartzNet with one block.

    A separable convolution is a convolution over time in each channel, then a convolution of width
    1 over all channels, then batch norm. The first one halves the number of frames. Two others are
    the block, with a residual connection.

    Args:
        seed: Seed of the initial weights.
        frames: Number of frames of a recording.
        coefficients: Number of coefficients of a frame.
        classes: Number of classes.
        width: Channels of all convolutions.

    Returns:
        A Keras model from recordings ``(batch, frames, coefficients)`` to logits
        ``(batch, classes)``.
    """
    draw = glorot(seed)

    def mixed(x: Any) -> Any:
        # No bias: the norm would remove it. Runs are too short for the usual momentum, 0.99.
        x = layers.Conv1D(width, 1, use_bias=False, kernel_initializer=draw)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    def convolution(x: Any, size: int, strides: int = 1) -> Any:
        over_time = layers.DepthwiseConv1D(
            size, strides, padding="same", use_bias=False, depthwise_initializer=draw
        )
        return mixed(over_time(x))

    relu = layers.ReLU()
    recording = keras.Input((frames, coefficients))
    x = relu(convolution(recording, 9, strides=2))
    x = relu(convolution(relu(convolution(x, 7)), 7) + mixed(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(recording, layers.Dense(classes, kernel_initializer=draw)(x))


def transformer(seed: int, characters: int, context: int) -> Any:
    """Builds a transformer that predicts the next character.

    The transformer has two blocks of width 64 with 4 heads, with layer norm before each attention
    and each dense part. One dense layer computes queries, keys and values. Matrices and embeddings
    are drawn with a standard deviation of 0.02, as in GPT-2.

    Args:
        seed: Seed of the initial weights.
        characters: Number of different characters.
        context: Number of characters that the model reads.

    Returns:
        A Keras model from numbers ``(batch, context)`` to logits ``(batch, context, characters)``.
    """
    width, heads, depth = 64, 4, 2
    draw = normal(seed, 0.02)

    def dense(x: Any, outputs: int, activation: str | None = None) -> Any:
        return layers.Dense(outputs, activation=activation, kernel_initializer=draw)(x)

    def attention(x: Any) -> Any:
        parts = ops.split(dense(x, 3 * width), 3, axis=-1)
        shape = (-1, context, heads, width // heads)
        read = ops.dot_product_attention(*(ops.reshape(x, shape) for x in parts), is_causal=True)
        return dense(ops.reshape(read, (-1, context, width)), width)

    numbers = keras.Input((context,), dtype="int32")
    x: Any = layers.Embedding(characters, width, embeddings_initializer=draw)(numbers)
    places = layers.Embedding(context, width, embeddings_initializer=draw)
    x = x + places(ops.zeros_like(numbers) + ops.arange(context))  # not a constant: it must train
    for _ in range(depth):
        x = x + attention(layers.LayerNormalization()(x))
        x = x + dense(dense(layers.LayerNormalization()(x), 4 * width, "relu"), width)
    return keras.Model(numbers, dense(layers.LayerNormalization()(x), characters))


class Factors(layers.Layer):
    """Returns two weights, each a separate parameter, for each row of the input.

    Args:
        first: The initial value of the first weight.
        second: The initial value of the second weight.
    """

    def __init__(self, first: float, second: float) -> None:
        """Creates the weights."""
        super().__init__()
        constant = keras.initializers.Constant
        self.first = self.add_weight(shape=(), initializer=constant(first), name="first")
        self.second = self.add_weight(shape=(), initializer=constant(second), name="second")

    def call(self, x: Any) -> Any:
        """Returns both weights, shape ``(batch, 2)``."""
        zeros = ops.zeros_like(x[:, 0])
        return ops.stack([zeros + weight for weight in (self.first, self.second)], axis=1)


def factors(first: float, second: float) -> Any:
    """Builds the model of two weights; of its input ``(batch, 1)`` it uses only the length."""
    x = keras.Input((1,))
    return keras.Model(x, Factors(first, second)(x))


def glorot(seed: int) -> Draw:
    """Returns a function that draws from Glorot's uniform distribution, Keras's default."""
    random = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], dtype: str) -> Any:
        limit = math.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:])))
        return ops.convert_to_tensor(random.uniform(-limit, limit, shape), dtype)

    return draw


def normal(seed: int, deviation: float) -> Draw:
    """Returns a function that draws from a normal distribution with mean 0."""
    random = np.random.default_rng(seed)
    return lambda shape, dtype: ops.convert_to_tensor(random.normal(0, deviation, shape), dtype)
