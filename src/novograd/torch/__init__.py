"""NovoGrad for PyTorch.

* ``NovoGrad``: the optimizer (``optimizer.py``). The modules in ``backends/`` compute the step;
  ``eager.py`` there uses the rule directly, one tensor at a time.
* ``no_decay``: parameter groups without weight decay for biases and norms.
"""

from novograd.torch.optimizer import NovoGrad
from novograd.torch.parameter_groups import no_decay

__all__ = ["NovoGrad", "no_decay"]
