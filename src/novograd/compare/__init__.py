"""Train models with several optimizers and compare the results: ``novograd compare``.

* ``task``: what is trained; ``tasks``: those that are built in; ``load``: finds one by its name.
* ``optimizers``: what is compared; ``plan``: which runs that takes.
* ``tensorflow``, ``torch``, ``jax``: a training step in that framework; ``keras``: the networks.
* ``training``: one training run, whatever the framework; ``worker``: one run as a process.
* ``runner``: all runs, in parallel, kept in ``results.json``.
* ``analysis``: what the results say, in numbers; ``sentences``: in words; ``tables``: in tables.
* ``display``: shows in a terminal how it goes; ``report``: the page.
"""

from novograd.compare.task import Segmentation, Task

__all__ = ["Segmentation", "Task"]
