"""NovoGrad for Keras 3, on its TensorFlow, JAX and PyTorch backends.

Importing this module also makes ``model.compile(optimizer="novograd")`` work, and lets Keras load
models that were saved with this optimizer. On PyTorch and JAX a step on the CPU is one call of the
native kernels, for all variables that they can take.
"""

from novograd.keras.optimizer import NovoGrad

__all__ = ["NovoGrad"]
