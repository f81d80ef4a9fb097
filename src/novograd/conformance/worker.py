"""Runs the checks of one framework: ``python -m novograd.conformance.worker SPEC_JSON``.

SPEC_JSON is a JSON object with these fields:

* ``module``: a module of ``novograd.conformance``. It defines ``VERSION``, ``ADAPTERS``,
  ``VARIANTS`` (whether the adapters support all variants), ``MOMENTS`` (the dtypes of momentum
  buffers that they support), ``ROUNDS_WEIGHTS`` if they can round weights at random, if some
  adapters compile ``COMPILED`` (their names), and if the framework needs preparation ``prepare()``.
* ``full``: whether to run all checks, or only those that ``novograd.conformance.choice`` chooses.
  The choice has only cases of the documented rule for adapters that compile.
* ``variants``: whether this choice includes cases of variants other than the documented rule.

The process prints lines of JSON on standard output, and nothing else: first the version, the number
of checks, the names of the adapters and the number of cases for each dtype, and then one line for
each check.
"""

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections import Counter
from itertools import product
from typing import Any

from novograd.conformance.cases import CASES, MOMENT_CASES, ROUNDING_CASES, VARIANT_CASES
from novograd.conformance.check import check
from novograd.conformance.choice import chosen


def main() -> None:
    """Runs the checks that SPEC_JSON on the command line describes."""
    spec = json.loads(sys.argv[1])
    lines = sys.stdout

    def say(**event: Any) -> None:
        print(json.dumps(event), file=lines, flush=True)

    warnings.simplefilter("ignore")  # frameworks warn about their own code
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"novograd.conformance.{spec['module']}")
        if hasattr(module, "prepare"):
            module.prepare()
        supported = getattr(module, "MOMENTS", ())
        moments = tuple(case for case in MOMENT_CASES if case.moment in supported)
        rounding = ROUNDING_CASES if hasattr(module, "ROUNDS_WEIGHTS") else ()
        documented = CASES + moments + rounding
        cases = documented + (VARIANT_CASES if module.VARIANTS else ())
        if spec["full"]:
            checks = list(product(module.ADAPTERS, cases))
        else:
            some = cases if spec["variants"] else documented
            checks = chosen(module.ADAPTERS, some, getattr(module, "COMPILED", ()))
        say(
            version=module.VERSION,
            total=len(checks),
            implementations=[*module.ADAPTERS],
            cases=Counter(case.dtype for case in cases),
        )
        for implementation, case in checks:
            outcome: dict[str, Any]
            try:
                outcome = {"ulps": check(module.ADAPTERS[implementation], case)}
            except Exception as error:  # any exception is a failure of this check
                outcome = {"error": f"{type(error).__name__}: {error}"}
            say(
                implementation=implementation,
                case=case.name,
                dtype=case.dtype,
                done=1,
                **outcome,
            )
    os._exit(0)  # skips the slow clean-up of the framework


if __name__ == "__main__":
    main()
