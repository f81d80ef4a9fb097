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
    slowest: Collection[str] = (),
) -> list[Any]:
    """Returns the parameters ``adapter`` and ``case`` of a test: each adapter with each case.

    Args:
        adapters: The adapters by name.
        cases: The cases that the adapters can run.
        slow: The adapters that need seconds for a case, for example because they compile.
            Without ``--full`` they run a choice of the cases: each adapter runs each dtype, and at
            least one of them runs each feature of the cases.
        variants: The variants in the choice in addition to the documented one. None means all
            variants. A few are enough if another adapter runs all of them. They are chosen without
            a clip. The documented one is also chosen with one clip.
        slowest: The adapters that need even longer. Without ``--full`` they run one case for each
            dtype. Another adapter runs each feature.
    """
    documented = [case for case in cases if case.variant.name == DOCUMENTED.name]
    limited = [case for case in documented if case.variant.clip is not None][1:]
    considered = [
        case
        for case in cases
        if variants is None
        or (case in documented and case not in limited)
        or (case.variant.name in variants and case.variant.clip is None)
    ]
    choice = {(name, case.name) for name, case in chosen(slow, considered)}
    first = {case.dtype: case.name for case in reversed(cases)}
    choice |= {(name, case) for name in slowest for case in first.values()}
    some = {*slow, *slowest}
    return [
        pytest.param(
            adapter,
            case,
            id=f"{case.name}-{name}",
            marks=[pytest.mark.full] if name in some and (name, case.name) not in choice else [],
        )
        for case in cases
        for name, adapter in adapters.items()
    ]
