"""The import path under which NVIDIA Clara Train 3.1 documented ``NovoGrad``.

Clara Train is gone; ``from ai4med.libs.optimizers import NovoGrad`` keeps working for code written
for it. The class lives in ``novograd.tensorflow``.
"""

from novograd.tensorflow import NovoGrad

__all__ = ["NovoGrad"]
