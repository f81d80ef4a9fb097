"""The parts of the optimizer for Keras's PyTorch backend, which has native kernels."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from keras import ops
from keras.src.backend import in_stateless_scope

from novograd.keras.layers import StepOptions, VariableUpdate
from novograd.keras.plain import fits, v_layout
from novograd.layers import Layers, Split
from novograd.torch.backends import native
from novograd.torch.layout import ParameterLayout, layout_of
from novograd.torch.parts import Part, Position, parts

__all__ = ["dense", "fits", "step", "v_layout"]


def step(updates: Sequence[VariableUpdate], hyper: StepOptions) -> list[VariableUpdate]:
    """Takes the step of the variables that the kernels support, in place.

    Args:
        updates: One for each variable.
        hyper: The hyperparameters.

    Returns:
        The variables that were not updated. In a stateless scope these are all variables, because
        variables must not be changed in place there.
    """
    if in_stateless_scope():
        return list(updates)
    options: Any = {
        "lr": ops.convert_to_tensor(hyper.learning_rate, "float64"),
        "betas": (hyper.beta_1, hyper.beta_2),
        "eps": hyper.epsilon,
        "grad_averaging": hyper.grad_averaging,
        "nesterov": hyper.nesterov,
        "maximize": False,
        "skip_nonfinite": False,
        "variant": hyper.variant,
    }
    count: Any = ops.cast(hyper.count, "float32") if hyper.counts(updates) else None
    groups: dict[float, list[Part]] = {}
    rest = []
    for update in updates:
        w, m, v = (x.value for x in (update.variable, update.momentum, update.v))
        layout = _layout(update.layers, update.variable.shape)
        maximum, scale = (None if x is None else x.value for x in (update.maximum, update.scale))
        whole = Part(w, update.gradient, m, v, layout.scale, None, maximum, count)
        if scale is not None:
            whole = whole._replace(exp_avg_scale=scale, position=_position(tuple(m.shape)))
        found = list(parts(whole, layout.cuts))
        # A part of Split may begin inside a block.
        cuts_blocks = scale is not None and isinstance(update.layers, Split)
        if cuts_blocks or any(native.problem(part, options) for part in found):
            rest.append(update)
        else:
            groups.setdefault(update.weight_decay, []).extend(found)
    for weight_decay, group in groups.items():
        native.step(group, options | {"weight_decay": weight_decay})
    return rest


def dense(gradient: Any) -> Any:
    """Returns a gradient as a dense tensor, with the values of duplicate indices summed.

    Example:
        >>> dense(torch.sparse_coo_tensor([[1, 1]], [1.0, 1.0], (2,))).tolist()
        [0.0, 2.0]
    """
    tensor: Any = gradient
    if not isinstance(gradient, torch.Tensor):
        tensor = ops.convert_to_tensor(gradient)
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _position(shape: tuple[int, ...]) -> Position:
    """Returns the position of a whole tensor."""
    return Position(0, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))


@functools.lru_cache(maxsize=4096)
def _layout(layers: Layers, shape: tuple[int, ...]) -> ParameterLayout:
    """Returns where the layers of a variable are; cached."""
    return layout_of(layers, None, torch.empty(shape, device="meta"))
