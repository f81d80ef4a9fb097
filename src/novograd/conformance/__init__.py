"""Conformance: one table of cases, one check, and an adapter for each backend of NovoGrad.

* ``cases``: the table of cases: shapes, dtypes, hyperparameters, gradients.
* ``check``: runs a case through an adapter and compares weights and state after every step with
  ``novograd.reference``.
* ``choice``: chooses a few checks that cover the cases and adapters of a framework.
* ``adapters``: the interface of an adapter.
* ``numpy``, ``tensorflow``, ``torch``, ``jax``, ``keras``: the adapters of the rule itself and
  of each framework's NovoGrad.
* ``verify``, ``worker``, ``report``: ``novograd verify``, with one process per framework.
"""

from novograd.conformance.cases import (
    CASES,
    MOMENT_CASES,
    ROUNDING_CASES,
    VARIANT_CASES,
    Case,
)
from novograd.conformance.check import MismatchError, check

__all__ = [
    "CASES",
    "MOMENT_CASES",
    "ROUNDING_CASES",
    "VARIANT_CASES",
    "Case",
    "MismatchError",
    "check",
]
