"""The documented NovoGrad as an optax gradient transformation.

``novograd`` is the rule of NVIDIA Clara Train 3.1's ``ai4med.libs.optimizers.NovoGrad``, with the
learning rate inside the momentum buffer. ``scale_by_novograd`` returns only its direction, for
``optax.chain``. Both are pure functions on trees: they work under ``jax.jit``, ``jax.vmap`` and
``jax.lax.scan``, with sharded arrays, and with all of optax's wrappers.
"""

from novograd.foreign import naming_extra

with naming_extra():
    from novograd.jax.statistics import layer_statistics
    from novograd.jax.transformation import (
        Novograd,
        NovogradState,
        QuantizedNovogradState,
        novograd,
        scale_by_novograd,
    )

__all__ = [
    "Novograd",
    "NovogradState",
    "QuantizedNovogradState",
    "layer_statistics",
    "novograd",
    "scale_by_novograd",
]
