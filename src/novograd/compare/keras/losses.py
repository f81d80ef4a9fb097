"""The losses of the built-in tasks, for tensors of any Keras backend."""

from typing import Any

import keras

ops: Any = keras.ops  # Any: Keras's type annotations are too narrow


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Returns the mean cross-entropy.

    Args:
        logits: Shape ``(..., classes)``.
        labels: Numbers of the true classes, shape ``(...)``.

    Returns:
        The mean in nats, a scalar.
    """
    return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def segmentation_loss(logits: Any, labels: Any) -> Any:
    """Returns cross-entropy plus one minus the soft Dice of all classes except the background.

    Args:
        logits: Shape ``(batch, *sides, classes)``.
        labels: uint8, shape ``(batch, *sides)``; 0 is the background.

    Returns:
        The mean over the batch, a scalar.
    """
    truth = ops.one_hot(labels, logits.shape[-1])
    entropy = ops.mean(ops.categorical_crossentropy(truth, logits, from_logits=True))
    guess = ops.softmax(logits)
    voxels = tuple(range(len(logits.shape) - 1))
    both = ops.sum(truth * guess, axis=voxels)
    each = ops.sum(truth + guess, axis=voxels)
    return entropy + 1 - ops.mean(2 * both[1:] / each[1:])


def product_loss(weights: Any, targets: Any) -> Any:
    """Returns the squared error of the product of two weights.

    Args:
        weights: Shape ``(batch, 2)``.
        targets: Shape ``(batch, 1)``.

    Returns:
        The mean squared error, a scalar.
    """
    return ops.mean(ops.square(weights[:, 0] * weights[:, 1] - targets[:, 0]))
