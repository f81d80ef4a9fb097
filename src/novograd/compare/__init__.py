"""Train one real network with several optimizers and compare the results: ``novograd compare``.

* ``brain``: the task, segmentation of MRI slices (NumPy only).
* ``keras``: the network and its loss, for every framework.
* ``tensorflow``, ``torch``, ``jax``: the optimizers and a training step in that framework.
* ``training``: one training run, whatever the framework.
* ``worker``: one run as a process of its own.
* ``runner``: all runs of a comparison, in parallel, kept in ``results.json``.
* ``report``: the live display, the table, the picture.
"""
