"""Train one real network with several optimizers and compare the results: ``novograd compare``.

* ``brain``: the task, segmentation of MRI slices (NumPy only).
* ``tensorflow``: the network, the optimizers and one training run in that framework.
* ``worker``: one run as a process of its own.
* ``runner``: all runs of a comparison, in parallel, kept in ``results.json``.
* ``report``: the live display, the table, the picture.
"""
