"""The losses of the built-in tasks, on tensors of any backend of Keras."""

from typing import Any

import keras

ops: Any = keras.ops  # Any: what Keras declares of types is too narrow


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Cross-entropy.

    Args:
        logits: Shape ``(..., classes)``.
        labels: Numbers of the true classes, shape ``(...)``.

    Returns:
        The mean, a scalar, in nats.
    """
    return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def segmentation_loss(logits: Any, labels: Any) -> Any:
    """Cross-entropy plus one minus the soft Dice of all classes but the background.

    Args:
        logits: Shape ``(batch, *sides, classes)``.
        labels: uint8, shape ``(batch, *sides)``, 0 being the background.

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
    """How far the product of two weights is from what it should be.

    Args:
        weights: Shape ``(batch, 2)``.
        targets: Shape ``(batch, 1)``.

    Returns:
        The mean square of the difference, a scalar.
    """
    return ops.mean(ops.square(weights[:, 0] * weights[:, 1] - targets[:, 0]))
