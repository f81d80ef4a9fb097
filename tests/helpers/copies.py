"""Copies and pickles of public objects, compared with those of the framework's own objects."""

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
    """A public object of ours, and a similar object of the framework.

    Attributes:
        make: Makes the object. Two objects that it makes are equal.
        does: Returns the content or the results of an object, for comparison.
        control: Makes the framework's object of the same kind, which may not survive every copy.
            None if the object must survive every copy.
    """

    make: Callable[[], Any]
    does: Callable[[Any], Any]
    control: Callable[[], Any] | None = None


def assert_survives_what_its_control_does(
    cases: Mapping[str, Case], ways: Mapping[str, Way] = WAYS
) -> None:
    """Checks that each object survives every copy that the framework's own object survives."""
    ours, controls = {}, {}
    for name, case in cases.items():
        problems = _problems(case, case.make, ways)
        of_control = _problems(case, case.control, ways) if case.control else {}
        ours |= {(name, way): x for way, x in problems.items() if way not in of_control}
        controls |= {(name, way): x for way, x in of_control.items() if way != "pickle"}
    assert not ours, ours
    # The controls survive everything but pickle. Otherwise the assertion above would check little.
    assert not controls, controls


def _problems(case: Case, make: Callable[[], Any], ways: Mapping[str, Way]) -> dict[str, str]:
    """Returns the kinds of copy that an object does not survive, each with the reason."""
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
