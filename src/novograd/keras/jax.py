"""The step of Keras variables on the JAX backend, by the native kernels where these can be used."""

from collections.abc import Sequence

from keras import ops

from novograd.jax import ffi
from novograd.jax.layout import Layout
from novograd.jax.leaves import Leaf, Numbers, Variant
from novograd.keras.layers import Hyperparameters, Layer
from novograd.layers import step_scale


def step(layers: Sequence[Layer], hyper: Hyperparameters) -> list[Layer]:
    """Takes the step of all variables.

    Args:
        layers: One for each variable. All decay alike, or not at all.
        hyper: The hyperparameters.

    Returns:
        The variables that are left to do: none.
    """
    leaves = []
    for g, w, m, v, weight_decay, chosen in layers:
        layout = Layout(chosen, tuple(v.shape), step_scale(chosen, w.shape))
        leaves.append(Leaf(g, m.value, v.value, w.value, layout, weight_decay != 0))
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
    return []
