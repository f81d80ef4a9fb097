"""How long an optimizer step takes on this machine: ``novograd bench``.

* ``shapes``: the models whose weights take the step.
* ``timing``: measuring in turn, the bound, the figures.
* ``torch``, ``jax``, ``tensorflow``: the optimizers of each framework, ours among them.
* ``peers``: the published NovoGrads for PyTorch.
* ``worker``: one framework as a process of its own.
* ``runner``: all of them, one after the other, and the result file.
* ``report``: the live display, the tables, the remarks.
"""
