"""The published NovoGrads, each beside ours with the same weights, gradients and hyperparameters.

Most come out of a wheel, in the folder that NOVOGRAD_WHEELS names (the Makefile fills it), without
the package around them, which would need much else, or other versions of what is installed.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from novograd.conformance.cases import CaseHyperparameters
from novograd.conformance.peers import PEERS, Gradient, State

STEPS = 30
DRAWS = range(8)  # each combination of the three switches once
SHAPES = ((), (7,), (3, 5), (2, 3, 3, 5))


class Draw(NamedTuple):
    """A run's random numbers, which float32 holds, so that they are the same in every dtype."""

    weights: list[np.ndarray]
    gradients: list[list[np.ndarray]]  # of each step
    rates: list[float]  # of each step
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_averaging: bool
    amsgrad: bool


class Stored(NamedTuple):
    """What an optimizer has after a step, of each weight; ``m`` as the peer defines it."""

    w: list[np.ndarray]
    m: list[np.ndarray]
    v: list[np.ndarray]


def draw(seed: int) -> Draw:
    """Makes a run; the bits of ``seed`` are its switches."""
    random = np.random.default_rng(seed)

    def arrays(scale: float) -> list[np.ndarray]:
        return [
            np.float64(np.float32(scale * (1 + i) * random.standard_normal(shape)))
            for i, shape in enumerate(SHAPES)
        ]

    def number(low: float, high: float) -> float:
        return float(np.float32(random.uniform(low, high)))

    size = 10 ** number(-3, 3)
    base = 10 ** number(-2, -0.5)
    return Draw(
        # No larger than the way they go, so that the rounding of float32 weights counts for little.
        weights=arrays(0.01),
        gradients=[arrays(size) for _ in range(STEPS)],
        # So different from step to step that a rate in the moment is told from one at the update.
        rates=[float(np.float32(base * number(0.1, 1))) for _ in range(STEPS)],
        beta1=number(0.5, 0.98),
        beta2=number(0.0, 0.999),
        epsilon=float(np.float32(10 ** number(-9, -3))),
        weight_decay=number(0.01, 0.3) if seed & 1 else 0.0,
        grad_averaging=bool(seed & 2),
        amsgrad=bool(seed & 4),
    )


def words(variant: str, run: Draw, **switches: bool) -> Iterator[Stored]:
    """Yields what there is after each step by the float64 NumPy writing of a variant."""
    step = partial(PEERS[variant], **switches)
    states = [State(w, np.zeros_like(w), 0.0, 0.0) for w in run.weights]
    for t, (rate, gradients) in enumerate(zip(run.rates, run.gradients, strict=True), start=1):
        hyper = CaseHyperparameters(
            rate, run.beta1, run.beta2, run.epsilon, run.weight_decay, run.grad_averaging
        )
        states = [
            step(state, Gradient(g, t, 1.0), hyper)
            for state, g in zip(states, gradients, strict=True)
        ]
        w, m, v, _ = zip(*states, strict=True)
        yield Stored(list(w), list(m), [np.asarray(x) for x in v])


def differences(
    start: list[np.ndarray], ours: Iterable[Stored], theirs: Sequence[Stored]
) -> dict[str, float]:
    """Returns the largest differences over all steps and weights.

    That of ``w`` is relative to the furthest that an element of the weight moves in the run, that
    of ``m`` to its largest element in the run, that of ``v`` to what ``v`` is.
    """
    worst = dict.fromkeys(Stored._fields, 0.0)
    movement = [max(_largest(x.w[i] - w) for x in theirs) for i, w in enumerate(start)]
    moment = [max(_largest(x.m[i]) for x in theirs) for i in range(len(start))]
    for mine, other in zip(ours, theirs, strict=True):
        for name, units in zip(Stored._fields, (movement, moment, other.v), strict=True):
            for x, y, unit in zip(getattr(mine, name), getattr(other, name), units, strict=True):
                assert x.shape == y.shape
                worst[name] = np.maximum(worst[name], _largest(x - y) / unit)  # keeps a NaN
    return {name: float(x) for name, x in worst.items()}


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x)))


def check(
    found: Mapping[str, float], dtype: str, record: Callable[[str, object], None], *names: str
) -> None:
    """Checks differences, and reports them under the names of the peer and of what was compared.

    Each of the two rounds once or so in each step, to the ``dtype`` in which the peer computes.
    Even if all of that added up, they would differ by no more than is allowed.
    """
    allowed = 2 * STEPS * float(np.finfo(dtype).eps)
    record("peer", [*names, *found.values(), allowed])
    assert all(x <= allowed for x in found.values()), found


def worst(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the largest differences of several runs."""
    every = list(found)
    return {name: float(np.max([one[name] for one in every])) for name in Stored._fields}


def wheel(name: str) -> Path:
    """Returns the wheel of a package, or skips the test."""
    folder = os.environ.get("NOVOGRAD_WHEELS")
    if not folder:
        pytest.skip("NOVOGRAD_WHEELS does not name a folder of wheels, as `make test` does")
    (found,) = Path(folder).glob(f"{name}-*.whl")
    return found


def installed(name: str) -> Path:
    """Returns the folder in which a distribution is installed."""
    return Path(str(distribution(name).locate_file("")))


@contextmanager
def packages(**folders: Path) -> Iterator[None]:
    """Lets modules be imported from folders (or wheels) as of packages that are otherwise empty.

    Whatever was imported of packages with these names is put away meanwhile.
    """

    def named() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in tops]

    tops = {name.partition(".")[0] for name in folders}
    away = {name: sys.modules.pop(name) for name in named()}
    for name, folder in folders.items():
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in named():
            del sys.modules[name]
        sys.modules.update(away)


def load(folder: Path, module: str, name: str) -> Any:
    """Returns what has a name in a module that imports nothing but its neighbours."""
    with packages(neighbours=folder):
        return getattr(importlib.import_module(f"neighbours.{module}"), name)
