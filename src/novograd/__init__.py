"""NovoGrad: stochastic gradient descent with layer-wise normalised gradients.

One algorithm (``novograd.rule``), as an ordinary optimizer of each framework. Import yours:

* ``novograd.torch.NovoGrad``: a ``torch.optim.Optimizer``.
* ``novograd.jax.novograd``, ``novograd.jax.scale_by_novograd``: optax gradient transformations.
* ``novograd.keras.NovoGrad``: a ``keras.optimizers.Optimizer`` for Keras 3 on any backend.
* ``novograd.tensorflow.NovoGrad``: the class documented by NVIDIA Clara Train 3.1.

This package itself imports no framework.

Example:
    >>> import novograd
    >>> isinstance(novograd.__version__, str)
    True
"""

__version__ = "0.1.0"
