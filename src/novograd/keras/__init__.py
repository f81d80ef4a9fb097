"""NovoGrad for Keras 3, on its TensorFlow, JAX and PyTorch backends.

Importing this module also makes ``model.compile(optimizer="novograd")`` work, and lets Keras load
models that were saved with this optimizer. On PyTorch and JAX, a step on the CPU updates all
variables that the native kernels support in one call.
"""

from novograd.foreign import naming_extra

with naming_extra():
    from novograd.keras.optimizer import NovoGrad
    from novograd.keras.statistics import layer_statistics

__all__ = ["NovoGrad", "layer_statistics"]
