"""Chooses a few checks of a framework that cover all its adapters and all kinds of cases."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations, product

from novograd.conformance.cases import Case, CaseHyperparameters
from novograd.variants import DOCUMENTED


def chosen(
    adapters: Iterable[str], cases: Sequence[Case], documented: Collection[str] = ()
) -> list[tuple[str, Case]]:
    """Chooses checks that cover every adapter and every feature of the cases.

    Every adapter is checked with every dtype. Every feature of a case (see ``features``) is checked
    with at least one adapter. The choice is a greedy cover: the next check is the one that covers
    the most missing features. Among equal checks, it is a check of the adapter with the fewest
    checks so far, and then the first one.

    Args:
        adapters: The names of the adapters of a framework.
        cases: The cases that the adapters can run.
        documented: The adapters that get only cases of the documented rule, because they take too
            long to compile the other variants.

    Returns:
        The chosen adapters and cases, in the order of ``adapters``, then of ``cases``. The same
        arguments give the same choice.

    Example:
        >>> from novograd.conformance import CASES
        >>> checks = chosen(["eager", "compiled"], CASES)
        >>> len(checks) < len(CASES)
        True
        >>> {case.dtype for name, case in checks if name == "compiled"} == {
        ...     case.dtype for case in CASES
        ... }
        True
    """
    checks = [
        (name, case)
        for name, case in product(dict.fromkeys(adapters), cases)
        if case.variant == DOCUMENTED or name not in documented
    ]
    of_case = {case.name: features(case) for case in cases}
    covers = [of_case[case.name] | {f"{name}, {case.dtype}"} for name, case in checks]
    missing = frozenset[str]().union(*covers)
    counts, taken = Counter[str](), set[int]()
    while missing:
        best = max(
            range(len(checks)),
            key=lambda i: (len(covers[i] & missing), -counts[checks[i][0]], -i),
        )
        missing -= covers[best]
        counts[checks[best][0]] += 1
        taken.add(best)
    return [checks[i] for i in sorted(taken)]


def features(case: Case) -> frozenset[str]:
    """Returns the features of a case.

    Features are the dtype, the variant with its clip, the dtype of the momentum buffer, each kind
    of layer with each shape, the size of the gradients, zero and missing gradients, a reload,
    stochastic rounding, each scheduled hyperparameter, and each hyperparameter that is not the
    default. For the documented rule each pair of such hyperparameters is also a feature, since its
    formula combines them.

    Args:
        case: Any case.

    Example:
        >>> from novograd.conformance import CASES
        >>> sorted(features(CASES[1]) - features(CASES[0]))
        ['learning_rate']
    """
    hyper = sorted(_changed(case.hyper))
    pairs = combinations(hyper, 2) if case.variant == DOCUMENTED else ()
    return frozenset(
        {
            case.dtype,
            f"variant {case.variant.name}, clip {case.variant.clip}",
            f"moment in {case.moment}",
            f"{case.dtype} gradients of {case.scale:g}",
            *(
                f"{layers} of {shape}"
                for layers, shape in zip(case.layers, case.shapes, strict=True)
            ),
            *(f"schedule of {name}" for name in (case.schedule(0) if case.schedule else ())),
            *_when("zero gradient", case.zero),
            *_when("missing gradient", case.missing),
            *_when("reload", () if case.reload_at is None else (case.reload_at,)),
            *(["stochastic rounding"] if case.stochastic_rounding else []),
            *hyper,
            *map(" and ".join, pairs),
        }
    )


def _changed(hyper: CaseHyperparameters) -> Iterator[str]:
    """Yields the hyperparameters that are not the default. Zero counts as another feature."""
    for name, default in asdict(CaseHyperparameters()).items():
        value = getattr(hyper, name)
        if value != default:
            yield name if value else f"{name} 0"


def _when(event: str, steps: Iterable[int]) -> Iterator[str]:
    """Yields whether an event happens in the first step or later."""
    for step in steps:
        yield f"{event} later" if step else f"{event} at first"
