"""All cases, one framework, one process: ``python -m novograd.conformance.worker MODULE``.

MODULE names a module of ``novograd.conformance`` with ``VERSION``, ``ADAPTERS``, ``VARIANTS``,
which says whether these can run more than the documented rule, and, where the framework must be
set up first, ``prepare()``. On standard output comes one line of JSON with the version and the
number of checks, one for each check, and nothing else.
"""

import contextlib
import importlib
import json
import os
import sys
import warnings
from typing import Any

from novograd.conformance.cases import CASES, VARIANT_CASES
from novograd.conformance.check import check


def main() -> None:
    """Runs the checks of the command line's MODULE."""
    lines = sys.stdout

    def say(**event: Any) -> None:
        print(json.dumps(event), file=lines, flush=True)

    warnings.simplefilter("ignore")  # those of frameworks about themselves
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"novograd.conformance.{sys.argv[1]}")
        if hasattr(module, "prepare"):
            module.prepare()
        cases = CASES + (VARIANT_CASES if module.VARIANTS else ())
        say(version=module.VERSION, total=len(module.ADAPTERS) * len(cases))
        for implementation, adapter in module.ADAPTERS.items():
            for case in cases:
                outcome: dict[str, Any]
                try:
                    outcome = {"ulps": check(adapter, case)}
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
