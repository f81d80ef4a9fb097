"""The step of Keras variables on the PyTorch backend, by the native kernels."""

from collections.abc import Sequence
from typing import Any

from keras import ops
from keras.src.backend import in_stateless_scope

from novograd.keras.layers import Hyperparameters, Layer
from novograd.torch import native


def step(layers: Sequence[Layer], hyper: Hyperparameters) -> list[Layer]:
    """Takes the step, in place, of the variables that the kernels can take.

    Args:
        layers: One for each variable.
        hyper: The hyperparameters.

    Returns:
        The others. In a stateless scope these are all: what is there must not be changed in place.
    """
    if in_stateless_scope():
        return list(layers)
    groups: dict[float, list[Layer]] = {}
    rest = []
    for layer in layers:
        tensors = (layer.variable.value, layer.gradient, layer.momentum.value)
        if native.problem(*tensors) is None:
            groups.setdefault(layer.weight_decay, []).append(layer)
        else:
            rest.append(layer)
    for weight_decay, group in groups.items():
        gradients, variables, momenta, vs, _ = zip(*group, strict=True)
        options: Any = {
            "lr": ops.convert_to_tensor(hyper.learning_rate, "float64"),
            "betas": (hyper.beta_1, hyper.beta_2),
            "eps": hyper.epsilon,
            "weight_decay": weight_decay,
            "grad_averaging": hyper.grad_averaging,
            "nesterov": hyper.nesterov,
            "maximize": False,
            "skip_nonfinite": False,
        }
        native.step(
            [w.value for w in variables],
            list(gradients),
            [m.value for m in momenta],
            [v.value for v in vs],
            options,
        )
    return rest
