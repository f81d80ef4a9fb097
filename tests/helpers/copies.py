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
        for way, run in ways.items():
            control = _problem(case, run, case.control) if case.control else None
            problem = _problem(case, run, case.make)
            if problem and not control:
                ours[name, way] = problem
            if control and way != "pickle":
                controls[name, way] = control
    assert not ours
    # And the controls survive everything but pickle, or the line above would not tell much.
    assert not controls


def _problem(case: Case, way: Way, make: Callable[[], Any]) -> str | None:
    """Returns why what is made does not survive a way, or None."""
    try:
        expected, after = case.does(make()), case.does(way(make()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if after == expected else f"{after} is not {expected}"
