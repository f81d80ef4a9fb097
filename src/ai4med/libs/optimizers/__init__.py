"""The import path under which NVIDIA Clara Train 3.1 documented ``NovoGrad``.

NVIDIA no longer offers Clara Train. Code written for it can still use
``from ai4med.libs.optimizers import NovoGrad``. The class is defined in ``novograd.tensorflow``.
"""

from novograd.tensorflow import NovoGrad

__all__ = ["NovoGrad"]
