"""Copies and pickles of what is public, beside those of the framework's own."""

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cloudpickle

Way = Callable[[Any], Any]
WAYS: Mapping[str, Way] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
}


class Case(NamedTuple):
    """Something public.

    Attributes:
        make: Makes it; two that were made are equal.
        does: What it holds or does, as something that can be compared.
        control: Makes the framework's own of its kind, which may not survive everything; None where
            all must be survived.
    """

    make: Callable[[], Any]
    does: Callable[[Any], Any]
    control: Callable[[], Any] | None = None


def assert_survives_what_its_control_does(
    cases: Mapping[str, Case], ways: Mapping[str, Way] = WAYS
) -> None:
    """Checks everything public in each way in which the framework's own of its kind survives."""
    ours, controls = {}, {}
    for name, case in cases.items():
        problems = _problems(case, case.make, ways)
        of_control = _problems(case, case.control, ways) if case.control else {}
        ours |= {(name, way): x for way, x in problems.items() if way not in of_control}
        controls |= {(name, way): x for way, x in of_control.items() if way != "pickle"}
    assert not ours
    # And the controls survive everything but pickle, or the line above would not tell much.
    assert not controls


def _problems(case: Case, make: Callable[[], Any], ways: Mapping[str, Way]) -> dict[str, str]:
    """Returns the ways that what is made does not survive, and why."""
    expected, found = case.does(make()), {}
    for name, way in ways.items():
        try:
            after = case.does(way(make()))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            if after != expected:
                found[name] = f"{after} is not {expected}"
    return found
