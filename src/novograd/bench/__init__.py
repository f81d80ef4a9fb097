"""How long an optimizer step takes on this machine: ``novograd bench``.

* ``shapes``: shapes of the measured models.
* ``timing``: the measurement, the lower bound, the figures.
* ``torch``, ``jax``, ``tensorflow``: the measured optimizers of each framework.
* ``peers``: the published NovoGrads for PyTorch.
* ``worker``: measures one framework in its own process.
* ``runner``: starts the workers one after the other, and writes the result file.
* ``report``: the tables and the remarks.
"""
