"""Comparison of published NovoGrads with ours: same weights, gradients and hyperparameters.

Most are loaded from a wheel in the folder NOVOGRAD_WHEELS, which the Makefile fills. Only the
optimizer's module is imported, because the whole package would need many other packages, or other
versions of the installed ones.
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
DRAWS = range(8)  # all combinations of the three switches
SHAPES = ((), (7,), (3, 5), (2, 3, 3, 5))


class Draw(NamedTuple):
    """The random inputs of a training; float32 can represent them, so all dtypes get the same."""

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
    """The weights and the state after a step, with ``m`` as the peer defines it."""

    w: list[np.ndarray]
    m: list[np.ndarray]
    v: list[np.ndarray]


def draw(seed: int) -> Draw:
    """Draws the inputs of a training; the bits of ``seed`` set its switches."""
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
        # No larger than their movement, so rounding of float32 weights has little effect.
        weights=arrays(0.01),
        gradients=[arrays(size) for _ in range(STEPS)],
        # The rates vary much, so a rate inside the momentum buffer differs from one in the update.
        rates=[float(np.float32(base * number(0.1, 1))) for _ in range(STEPS)],
        beta1=number(0.5, 0.98),
        beta2=number(0.0, 0.999),
        epsilon=float(np.float32(10 ** number(-9, -3))),
        weight_decay=number(0.01, 0.3) if seed & 1 else 0.0,
        grad_averaging=bool(seed & 2),
        amsgrad=bool(seed & 4),
    )


def words(variant: str, run: Draw, **switches: bool) -> Iterator[Stored]:
    """Yields the weights and the state after each step of a variant's float64 NumPy version."""
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

    The difference of ``w`` is relative to the largest movement of an element of the weight, the
    difference of ``m`` to the largest element of ``m`` in the training, and the difference of ``v``
    to ``v`` itself.
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
    """Checks differences, and reports them under the given names.

    Each of the two optimizers rounds about once in each step, to the ``dtype`` in which the peer
    computes. The allowed difference is the sum of all these roundings.
    """
    allowed = 2 * STEPS * float(np.finfo(dtype).eps)
    record("peer", [*names, *found.values(), allowed])
    assert all(x <= allowed for x in found.values()), found


def worst(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the largest differences over several trainings."""
    every = list(found)
    return {name: float(np.max([one[name] for one in every])) for name in Stored._fields}


def wheel(name: str) -> Path:
    """Returns the wheel of a package, or skips the test."""
    folder = os.environ.get("NOVOGRAD_WHEELS")
    if not folder:
        pytest.skip("NOVOGRAD_WHEELS must name a folder of wheels; `make test` sets it")
    (found,) = Path(folder).glob(f"{name}-*.whl")
    return found


def installed(name: str) -> Path:
    """Returns the folder in which a distribution is installed."""
    return Path(str(distribution(name).locate_file("")))


@contextmanager
def packages(**folders: Path) -> Iterator[None]:
    """Makes modules in folders or wheels importable as modules of otherwise empty packages.

    Already imported packages with these names are removed, and restored at the end.
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
    """Returns an attribute of a module that imports only modules of its own folder."""
    with packages(neighbours=folder):
        return getattr(importlib.import_module(f"neighbours.{module}"), name)
