"""What the optimizer needs of Keras's PyTorch backend, which has native kernels."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from keras import ops
from keras.src.backend import in_stateless_scope

from novograd.keras.layers import StepOptions, VariableUpdate
from novograd.keras.plain import fits, v_layout
from novograd.layers import Layers
from novograd.torch.backends import native
from novograd.torch.layout import Layout, layout_of
from novograd.torch.parts import Part, parts

__all__ = ["dense", "fits", "step", "v_layout"]


def step(layers: Sequence[VariableUpdate], hyper: StepOptions) -> list[VariableUpdate]:
    """Takes the step, in place, of the variables that the kernels can take.

    Args:
        layers: One for each variable.
        hyper: The hyperparameters.

    Returns:
        The others. In a stateless scope these are all: what is there must not be changed in place.
    """
    if in_stateless_scope():
        return list(layers)
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
    count: Any = ops.convert_to_tensor(hyper.count) if hyper.variant.counts else None
    groups: dict[float, list[Part]] = {}
    rest = []
    for layer in layers:
        w, m, v = (x.value for x in (layer.variable, layer.momentum, layer.v))
        layout = _layout(layer.layers, layer.variable.shape)
        maximum = None if layer.maximum is None else layer.maximum.value
        whole = Part(w, layer.gradient, m, v, layout.scale, None, maximum, count)
        found = list(parts(whole, layout.cuts))
        if any(native.problem(part, options) for part in found):
            rest.append(layer)
        else:
            groups.setdefault(layer.weight_decay, []).extend(found)
    for weight_decay, group in groups.items():
        native.step(group, options | {"weight_decay": weight_decay})
    return rest


def dense(gradient: Any) -> Any:
    """Returns a gradient as a dense tensor, with the sum of what it holds for one index.

    Example:
        >>> dense(torch.sparse_coo_tensor([[1, 1]], [1.0, 1.0], (2,))).tolist()
        [0.0, 2.0]
    """
    tensor: Any = gradient
    if not isinstance(gradient, torch.Tensor):
        tensor = ops.convert_to_tensor(gradient)
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


@functools.lru_cache(maxsize=4096)
def _layout(layers: Layers, shape: tuple[int, ...]) -> Layout:
    """Finds out once where the layers of a variable are."""
    return layout_of(layers, None, torch.empty(shape, device="meta"))
