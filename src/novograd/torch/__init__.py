"""NovoGrad for PyTorch.

* ``NovoGrad``: the optimizer (``optimizer.py``), which leaves the arithmetic of a step to
  ``backends/``: ``eager.py`` there is the rule itself, a tensor at a time.
* ``no_decay``: parameter groups that spare biases and norms the weight decay.
"""

from novograd.torch.optimizer import NovoGrad
from novograd.torch.parameter_groups import no_decay

__all__ = ["NovoGrad", "no_decay"]
