"""The parts of the optimizer for a Keras backend that has neither kernels nor layouts."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from novograd.keras.layers import StepOptions, VariableUpdate


def step(updates: Sequence[VariableUpdate], _hyper: StepOptions) -> list[VariableUpdate]:
    """Returns all variables, because there are no kernels that update them."""
    return list(updates)


def dense(gradient: Any) -> Any:
    """Returns a gradient as a dense tensor, with the values of duplicate indices summed.

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
    """Returns the layout of ``v``; None is Keras's default.

    Example:
        >>> v_layout(None, ()) is None
        True
    """
    return None
