"""NovoGrad for PyTorch.

* ``NovoGrad``: the optimizer (``optimizer.py``). The modules in ``backends/`` compute the step;
  ``eager.py`` there uses the rule directly, one tensor at a time.
* ``no_decay``: parameter groups without weight decay for biases, norms and slopes.
* ``rows_of``: layers for a model with transposed convolutions.
* ``layer_statistics``: statistics of the last step, for each parameter.
"""

from novograd.foreign import naming_extra

with naming_extra():
    from novograd.torch.optimizer import NovoGrad
    from novograd.torch.parameter_groups import no_decay
    from novograd.torch.rows import rows_of
    from novograd.torch.statistics import layer_statistics

__all__ = ["NovoGrad", "layer_statistics", "no_decay", "rows_of"]
