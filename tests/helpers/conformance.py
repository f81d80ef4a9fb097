"""Which checks of the conformance table a framework's tests take."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from novograd.conformance.adapters import Adapter
from novograd.conformance.cases import Case
from novograd.conformance.choice import chosen
from novograd.variants import DOCUMENTED


def checks(
    adapters: Mapping[str, type[Adapter]],
    cases: Sequence[Case],
    dear: Collection[str] = (),
    variants: Collection[str] | None = None,
) -> list[Any]:
    """Returns the parameters ``adapter`` and ``case`` of a test: each adapter with each case.

    Args:
        adapters: The ways to run a framework.
        cases: What they can run.
        dear: The adapters for which a case takes seconds, for example because they compile.
            Without ``--full`` they run a choice of the cases: each of them runs each dtype, and one
            of them or another everything that is in the cases.
        variants: The variants in the choice beside the documented one; None for all. Few are
            enough where another adapter runs all of them.
    """
    considered = [
        case for case in cases if variants is None or case.variant in (DOCUMENTED.name, *variants)
    ]
    choice = {(name, case.name) for name, case in chosen(dear, considered)}
    return [
        pytest.param(
            adapter,
            case,
            id=f"{case.name}-{name}",
            marks=[pytest.mark.full] if name in dear and (name, case.name) not in choice else [],
        )
        for case in cases
        for name, adapter in adapters.items()
    ]
