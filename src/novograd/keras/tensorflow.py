"""The parts of the optimizer for Keras's TensorFlow backend, which has sparse gradients."""

from typing import Any

import tensorflow as tf

from novograd.keras.plain import step, v_layout

__all__ = ["dense", "fits", "step", "v_layout"]


def dense(gradient: Any) -> Any:
    """Returns a gradient as a dense tensor, with the values of duplicate indices summed.

    Example:
        >>> dense(tf.IndexedSlices(tf.ones((2, 1)), [1, 1], [2, 1])).numpy().tolist()
        [[0.0], [2.0]]
    """
    return tf.convert_to_tensor(gradient)


def fits(gradient: Any, variable: Any) -> bool:
    """Returns whether a gradient has the shape of its variable; unknown sizes fit.

    Example:
        >>> fits(tf.ones(2), tf.ones(2)), fits(tf.ones(1), tf.ones(2))
        (True, False)
    """
    return variable.shape.is_compatible_with(gradient.shape)
