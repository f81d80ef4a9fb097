"""Train models with several optimizers and compare the results: ``novograd compare``.

* ``task``: describes a task; ``tasks``: the built-in tasks; ``load``: finds a task by its name.
* ``optimizers``: the optimizers to compare; ``plan``: the list of runs; ``devices``: CPU or GPU.
* ``tensorflow``, ``torch``, ``jax``: a training step in that framework; ``keras``: the networks.
* ``training``: one run in any framework; ``worker``: a process that does one run.
* ``runner``: all runs in parallel, with results in ``results.json``.
* ``executors``: does runs on this machine; ``cluster``: on a Ray cluster; ``node``: on one of its
  nodes; ``travel``: the user's files that the nodes need.
* ``analysis``: the results as numbers; ``sentences``: in words; ``tables``: in tables.
* ``display``: shows the progress in a terminal; ``report``: writes the page.
"""

from novograd.compare.task import Segmentation, Task

__all__ = ["Segmentation", "Task"]
