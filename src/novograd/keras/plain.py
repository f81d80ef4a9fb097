"""What the optimizer needs of a backend, for one that has neither kernels nor layouts."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from novograd.keras.layers import StepOptions, VariableUpdate


def step(layers: Sequence[VariableUpdate], _hyper: StepOptions) -> list[VariableUpdate]:
    """Takes the step of the variables for which there are kernels; returns the others: all."""
    return list(layers)


def dense(gradient: Any) -> Any:
    """Returns a gradient as a dense tensor, with the sum of what it holds for one index.

    Example:
        >>> tuple(dense([1.0, 2.0]).shape)
        (2,)
    """
    return ops.convert_to_tensor(gradient, sparse=False)


def fits(gradient: Any, variable: Any) -> bool:
    """Returns whether a gradient has the shape of its variable.

    Example:
        >>> fits(ops.ones(2), ops.ones(2)), fits(ops.ones(1), ops.ones(2))
        (True, False)
    """
    return tuple(gradient.shape) == tuple(variable.shape)


def v_layout(_momentum: Any, _shape: tuple[int, ...]) -> Any:
    """Returns the layout of ``v``, given its moment and its shape; None is Keras's default.

    Example:
        >>> v_layout(None, ()) is None
        True
    """
    return None
