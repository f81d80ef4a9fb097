"""The step of Keras variables on the JAX backend, by the native kernels where these can be used."""

from collections.abc import Sequence

from keras import ops

from novograd.jax import ffi
from novograd.jax.leaves import Leaf, Numbers, Variant
from novograd.keras.layers import Hyperparameters, Layer


def step(layers: Sequence[Layer], hyper: Hyperparameters) -> list[Layer]:
    """Takes the step of the variables that are a layer each.

    Args:
        layers: One for each variable. All decay alike, or not at all.
        hyper: The hyperparameters.

    Returns:
        The variables that are left to do: those of several layers.
    """
    rest = [layer for layer in layers if layer.layers is not None]
    layers = [layer for layer in layers if layer.layers is None]
    leaves = [
        Leaf(g, m.value, v.value, w.value, weight_decay != 0)
        for g, w, m, v, weight_decay, _ in layers
    ]
    numbers = Numbers(
        ops.convert_to_tensor(hyper.learning_rate),
        hyper.beta_1,
        hyper.beta_2,
        hyper.epsilon,
        max((layer.weight_decay for layer in layers), default=0.0),
    )
    variant = Variant(hyper.grad_averaging, hyper.nesterov, skip_nonfinite=False, applies=True)
    stepped = ffi.step(leaves, numbers, variant, demanded=False)
    for (_, w, m, v, *_), (weights, moment, norm) in zip(layers, stepped, strict=True):
        w.assign(weights)
        m.assign(moment)
        v.assign(norm)
    return rest
