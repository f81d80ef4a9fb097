"""The step of Keras variables on the JAX backend, by the native kernels."""

from collections.abc import Sequence

from keras import ops

from novograd.jax import ffi
from novograd.jax.leaves import Leaf, Numbers, Variant
from novograd.keras.layers import Hyperparameters, Layer


def step(layers: Sequence[Layer], hyper: Hyperparameters) -> list[Layer]:
    """Takes the step of float32 and float64 variables, by the kernels where these can be used.

    Args:
        layers: One for each variable.
        hyper: The hyperparameters.

    Returns:
        The others: an increment of half precision would be rounded before it is added.
    """
    wide = ("float32", "float64")
    mine = [layer for layer in layers if layer.variable.dtype in wide]
    leaves = [
        Leaf(ops.cast(g, w.dtype), m.value, v.value, w.value if weight_decay else 0.0)
        for g, w, m, v, weight_decay in mine
    ]
    numbers = Numbers(
        ops.convert_to_tensor(hyper.learning_rate),
        hyper.beta_1,
        hyper.beta_2,
        hyper.epsilon,
        max((layer.weight_decay for layer in mine), default=0.0),
    )
    variant = Variant(hyper.grad_averaging, hyper.nesterov, skip_nonfinite=False)
    stepped = ffi.step(leaves, numbers, variant, demanded=False) if leaves else []
    for (_, w, m, v, _), (added, moment, norm) in zip(mine, stepped, strict=True):
        w.assign_add(added)
        m.assign(moment)
        v.assign(norm)
    return [layer for layer in layers if layer.variable.dtype not in wide]
