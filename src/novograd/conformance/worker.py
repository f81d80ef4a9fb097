"""One framework, one process: ``python -m novograd.conformance.worker SPEC_JSON``.

SPEC_JSON is a JSON object. Its ``module`` names a module of ``novograd.conformance`` with
``VERSION``, ``ADAPTERS``, ``VARIANTS``, which says whether these can run more than the documented
rule, and, where the framework must be set up first, ``prepare()``. ``full`` says whether to run all
checks, or those that ``novograd.conformance.choice`` chooses with ``documented``, and of the cases
with other variants only if ``variants`` is true.

On standard output comes one line of JSON with the version, the number of checks, the adapters'
names and the number of cases for each dtype, one line for each check, and nothing else.
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

from novograd.conformance.cases import CASES, VARIANT_CASES
from novograd.conformance.check import check
from novograd.conformance.choice import chosen


def main() -> None:
    """Runs the checks that the SPEC_JSON of the command line says."""
    spec = json.loads(sys.argv[1])
    lines = sys.stdout

    def say(**event: Any) -> None:
        print(json.dumps(event), file=lines, flush=True)

    warnings.simplefilter("ignore")  # those of frameworks about themselves
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"novograd.conformance.{spec['module']}")
        if hasattr(module, "prepare"):
            module.prepare()
        cases = CASES + (VARIANT_CASES if module.VARIANTS else ())
        if spec["full"]:
            checks = list(product(module.ADAPTERS, cases))
        else:
            some = cases if spec["variants"] else CASES
            checks = chosen(module.ADAPTERS, some, spec["documented"])
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
            except Exception as error:  # whatever it is, that adapter fails that case
                outcome = {"error": f"{type(error).__name__}: {error}"}
            say(
                implementation=implementation,
                case=case.name,
                dtype=case.dtype,
                done=1,
                **outcome,
            )
    os._exit(0)  # spares the framework's own clean-up


if __name__ == "__main__":
    main()
