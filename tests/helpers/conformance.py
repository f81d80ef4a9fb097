"""Parameters of tests that run the conformance table."""

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
    slow: Collection[str] = (),
    variants: Collection[str] | None = None,
) -> list[Any]:
    """Returns the parameters ``adapter`` and ``case`` of a test: each adapter with each case.

    Args:
        adapters: The adapters by name.
        cases: The cases that the adapters can run.
        slow: The adapters that need seconds for a case, for example because they compile.
            Without ``--full`` they run a choice of the cases: each adapter runs each dtype, and at
            least one of them runs each feature of the cases.
        variants: The variants in the choice in addition to the documented one. None means all
            variants. A few are enough if another adapter runs all of them.
    """
    considered = [
        case
        for case in cases
        if variants is None or case.variant.name in (DOCUMENTED.name, *variants)
    ]
    choice = {(name, case.name) for name, case in chosen(slow, considered)}
    return [
        pytest.param(
            adapter,
            case,
            id=f"{case.name}-{name}",
            marks=[pytest.mark.full] if name in slow and (name, case.name) not in choice else [],
        )
        for case in cases
        for name, adapter in adapters.items()
    ]
