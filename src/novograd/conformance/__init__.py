"""Conformance: one table of cases, one check, and an adapter for each way to run NovoGrad.

* ``cases``: what is run: shapes, dtypes, hyperparameters, gradients.
* ``check``: runs a case through an adapter and compares weights and state after every step with
  ``novograd.reference``.
* ``choice``: which checks stand for all of a framework.
* ``adapters``: what an adapter is.
* ``numpy``, ``tensorflow``, ``torch``, ``jax``, ``keras``: adapters of the rule itself and of each
  framework's NovoGrad.
* ``verify``, ``worker``, ``report``: ``novograd verify``, a process per framework.
"""

from novograd.conformance.cases import CASES, VARIANT_CASES, Case
from novograd.conformance.check import MismatchError, check

__all__ = ["CASES", "VARIANT_CASES", "Case", "MismatchError", "check"]
