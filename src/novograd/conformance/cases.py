"""The table of conformance cases.

A case is data. To add a case, add a row to ``_cases``; every adapter then runs it.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle, product
from typing import Any

import ml_dtypes
import numpy as np

from novograd.layers import Layers, Rows, Split, Stacked
from novograd.variants import DOCUMENTED, VARIANTS, Variant, get

# A scalar, one element, odd sizes, a matrix, a convolution kernel, and two empty tensors.
SHAPES = ((), (1,), (7,), (3, 5), (0,), (2, 3, 3, 5), (33, 17), (4, 0, 2))

# Weights with several layers: contiguous or not, long, short, of one element, and empty.
LAYERS: tuple[tuple[tuple[int, ...], Layers], ...] = (
    ((3, 33, 4), Stacked()),
    ((4, 3, 17), Stacked(1)),
    ((3, 5, 2), Stacked((0, 2))),
    ((9, 4), Split((2, 3, 4))),
    ((4, 37), Split((17, 0, 20), axis=-1)),
    ((33, 17), Rows(0)),
    ((17, 33), Rows(-1)),
    ((4, 3, 3, 5), Rows(0, "rms")),
    ((3, 4), Rows(1, "rms")),
    ((7,), Rows(0)),
    ((0, 3), Rows(0)),
    ((3, 0), Rows(0)),
    ((5, 7), None),
    ((), None),
)

DTYPES: Mapping[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

# The dtypes of a momentum buffer that differs from its weights.
MOMENTS: Mapping[str, np.dtype] = {"int8": np.dtype(np.int8), "bfloat16": DTYPES["bfloat16"]}

# Weights whose buffer may be in 8 bits: rows of whole blocks, of whole blocks and a rest, and of
# less than a block; rows that begin at odd positions, or have several axes; blocks that belong to
# many layers; layers that are cut; and weights that are too small, or have one axis.
_QUANTISED: tuple[tuple[tuple[int, ...], Layers], ...] = (
    ((16, 256), None),
    ((33, 131), Rows(0, "rms")),
    ((131, 40), Rows(1)),
    ((520, 8), None),
    ((8, 64, 3, 3), Rows(0, "rms")),
    ((3, 15, 129), Stacked()),
    ((4, 40, 33), Rows((0, 1))),
    ((60, 70), Split((17, 0, 43))),
    ((20, 300), Split((128, 172), axis=-1)),
    ((33, 17), Rows(0)),
    ((4100,), None),
)


@dataclass(frozen=True)
class CaseHyperparameters:
    """The hyperparameters of one step, named like the arguments of the TensorFlow class."""

    learning_rate: float = 0.1  # the default 1.0 would make all weights large in 30 steps
    beta1: float = DOCUMENTED.beta1
    beta2: float = DOCUMENTED.beta2
    epsilon: float = DOCUMENTED.eps
    weight_decay: float = 0.0
    grad_averaging: bool = DOCUMENTED.grad_averaging
    nesterov: bool = False


@dataclass(frozen=True)
class Case:
    """Weights of the given shapes, which are trained together on random gradients.

    Attributes:
        name: A unique name, which also seeds the random numbers.
        dtype: The dtype of weights, gradients and momentum buffers.
        hyper: The hyperparameters of each step.
        schedule: Called with the number of a step. Returns the hyperparameters that differ from
            ``hyper`` in that step: some of ``learning_rate``, ``beta1``, ``beta2`` and
            ``weight_decay``.
        scale: The size of a gradient's elements.
        zero: The steps in which every gradient is zero.
        missing: Maps the number of a step to the weights that have no gradient in that step.
        reload_at: Before this step, everything is saved, discarded and loaded.
        steps: The number of steps.
        shapes: The shape of each weight.
        layers: The layers of each weight; None makes the whole weight one layer.
        variant: The variant: one of ``VARIANTS``, or one of them with another ``clip``.
        moment: The dtype of the momentum buffers, one of ``MOMENTS``; None for the weights' dtype.
        stochastic_rounding: Whether the weights are rounded at random; then they are bfloat16.
    """

    name: str
    dtype: str = "float32"
    hyper: CaseHyperparameters = field(default_factory=CaseHyperparameters)
    schedule: Callable[[int], Mapping[str, float]] | None = None
    scale: float = 1.0
    zero: frozenset[int] = frozenset()
    missing: Mapping[int, frozenset[int]] = field(default_factory=dict)
    reload_at: int | None = None
    steps: int = 30
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    layers: tuple[Layers, ...] = (None,) * len(SHAPES)
    variant: Variant = DOCUMENTED
    moment: str | None = None
    stochastic_rounding: bool = False

    def weights(self) -> list[np.ndarray]:
        """Returns the initial weights."""
        random = np.random.default_rng([self._seed(), 0])
        return [
            np.asarray(random.standard_normal(shape), DTYPES[self.dtype]) for shape in self.shapes
        ]

    def hyperparameters(self, step: int) -> CaseHyperparameters:
        """Returns the hyperparameters of a step. Scheduled values are exact in float32."""
        if self.schedule is None:
            return self.hyper
        changes = {name: float(np.float32(x)) for name, x in self.schedule(step).items()}
        return replace(self.hyper, **changes)

    def gradients(self, step: int) -> list[np.ndarray | None]:
        """Returns the gradient of each weight in a step, or None where it is missing."""
        random = np.random.default_rng([self._seed(), 1, step])
        scale = 0.0 if step in self.zero else self.scale
        gradients: list[np.ndarray | None] = [
            # The scale differs between weights, to detect a norm that is computed over all of them.
            np.asarray(scale * (1 + layer) * random.standard_normal(shape), DTYPES[self.dtype])
            for layer, shape in enumerate(self.shapes)
        ]
        for layer in self.missing.get(step, ()):
            gradients[layer] = None
        return gradients

    def _seed(self) -> int:
        return zlib.crc32(self.name.encode())


def _hyper(**changes: Any) -> CaseHyperparameters:
    return replace(CaseHyperparameters(), **changes)


def _learning_rate_schedule(step: int) -> dict[str, float]:
    # The fast decay detects a learning rate that is multiplied into the momentum buffer.
    return {"learning_rate": 0.2 * 0.8**step}


def _full_schedule(step: int) -> dict[str, float]:
    return {
        "learning_rate": 0.2 * 0.9**step,
        "beta1": 0.5 + 0.015 * step,
        "beta2": 0.99 - 0.02 * step,
        "weight_decay": 0.01 * (step % 3),
    }


_LAYERS: dict[str, Any] = dict(zip(("shapes", "layers"), zip(*LAYERS, strict=True), strict=True))

_EVERYTHING: dict[str, Any] = {
    "schedule": _learning_rate_schedule,
    "zero": frozenset({0, 9}),
    "missing": {5: frozenset({3, 6}), 12: frozenset({0, 1, 7})},
    "reload_at": 17,
}


def _cases() -> Iterator[Case]:
    yield Case("defaults")
    yield Case("documented learning rate", hyper=_hyper(learning_rate=1.0))
    for name, value in (
        ("learning_rate", 0.0),
        ("beta1", 0.0),
        ("beta1", 0.5),
        ("beta2", 0.0),
        ("beta2", 0.5),
        ("beta2", 0.999),
        ("epsilon", 0.0),
        ("epsilon", 10.0),  # as large as |g|^2: detects an epsilon inside the square root
        ("weight_decay", 0.1),
        ("grad_averaging", True),
        ("nesterov", True),
    ):
        yield Case(f"{name} {value:g}", hyper=_hyper(**{name: value}))
    for averaging, nesterov, beta1 in product((False, True), (False, True), (0.0, 0.9)):
        yield Case(
            f"decay, averaging {averaging}, nesterov {nesterov}, beta1 {beta1:g}",
            hyper=_hyper(
                weight_decay=0.1, grad_averaging=averaging, nesterov=nesterov, beta1=beta1
            ),
        )
    yield Case("learning rate schedule", schedule=_learning_rate_schedule)
    yield Case("full schedule", schedule=_full_schedule, hyper=_hyper(grad_averaging=True))
    yield Case("zero first gradient", zero=frozenset({0, 1}), hyper=_hyper(weight_decay=0.1))
    yield Case("zero first gradient, epsilon 0", zero=frozenset({0}), hyper=_hyper(epsilon=0.0))
    yield Case("zero gradient mid-run", zero=frozenset({8}))
    yield Case("no gradient at first", missing={0: frozenset({1, 3}), 1: frozenset({3})})
    yield Case("no gradient mid-run", missing={7: frozenset({0, 3, 4}), 8: frozenset({3})})
    yield Case("reload mid-run", reload_at=11)
    yield Case("reload before the first step", reload_at=0)
    for dtype in DTYPES:
        yield Case(f"{dtype}", dtype=dtype)
        # These cases are the slowest. bfloat16 and float16 use the same code, as do float32 and
        # float64. In each pair, one dtype therefore runs with only one value of nesterov.
        for nesterov in {"float64": (True,), "float16": (False,)}.get(dtype, (False, True)):
            yield Case(
                f"everything at once, {dtype}, nesterov {nesterov}",
                dtype=dtype,
                hyper=_hyper(
                    weight_decay=0.05, beta1=0.9, beta2=0.9, epsilon=0.5, nesterov=nesterov
                ),
                **_EVERYTHING,
            )
    yield Case(
        "averaging and decay, bfloat16",
        "bfloat16",
        _hyper(grad_averaging=True, weight_decay=0.1),
    )
    yield Case("layers", **_LAYERS)
    for dtype, nesterov in (("float64", False), ("bfloat16", True)):
        yield Case(
            f"layers, everything at once, {dtype}, nesterov {nesterov}",
            dtype=dtype,
            hyper=_hyper(weight_decay=0.05, beta2=0.9, epsilon=0.5, nesterov=nesterov),
            **_EVERYTHING,
            **_LAYERS,
        )
    # Very small and very large gradients: some of their squares leave the range of their dtype.
    yield Case("float32 gradients of 1e-20", scale=1e-20)
    yield Case("float32 gradients of 1e+15", scale=1e15)
    yield Case("float16 gradients of 300", "float16", scale=300.0)
    yield Case("float16 gradients of 1e-4", "float16", scale=1e-4, hyper=_hyper(epsilon=1e-12))
    yield Case("bfloat16 gradients of 1e+15", "bfloat16", scale=1e15)


def _variant_cases() -> Iterator[Case]:
    """Yields a case for each variant, with random hyperparameters.

    These cases have all features except missing gradients: when a gradient is missing, some
    frameworks count the step and others count the steps of each weight.
    """
    dtypes = cycle(("float32", "float64", "bfloat16"))
    for number, variant in enumerate(list(VARIANTS.values())[1:]):
        random = np.random.default_rng(number)
        yield Case(
            f"variant {variant.name}",
            dtype=next(dtypes),
            variant=variant,
            # Exact in float32, like scheduled values.
            hyper=_hyper(
                beta1=float(np.float32(random.uniform(0.5, 0.99))),
                beta2=float(np.float32(random.uniform(0.5, 0.999))),
                epsilon=float(np.float32(10 ** random.uniform(-8, 0))),
                weight_decay=float(np.float32(random.uniform(0.01, 0.1))),
                grad_averaging=bool(number % 2) and variant.name != "optax",
                nesterov=variant.nesterov,
            ),
            schedule=_learning_rate_schedule,
            zero=frozenset({0, 9}),
            reload_at=17,
            **_LAYERS,
        )


def _clip_cases() -> Iterator[Case]:
    """Yields cases whose variants limit the normalised gradients."""
    for name, clip, dtype in (
        (DOCUMENTED.name, 1.0, "float32"),
        (DOCUMENTED.name, 2.0, "float64"),
        ("nvidia", 0.7, "bfloat16"),
        ("nvidia-amsgrad", 1.0, "float32"),
        ("apex", 1.0, "float64"),
        ("apex-inf", 0.7, "float32"),
        ("apex-inside-inf", 1.0, "bfloat16"),
    ):
        yield Case(
            f"variant {name}, clip {clip:g}",
            dtype=dtype,
            variant=replace(get(name), clip=clip),
            hyper=_hyper(beta1=0.875, beta2=0.75, epsilon=2.0**-10, weight_decay=0.0625),
            schedule=_learning_rate_schedule,
            zero=frozenset({0, 9}),
            reload_at=17,
            **_LAYERS,
        )
    # The norm is the limit: the average does not matter.
    yield Case(
        "small limit",
        variant=replace(DOCUMENTED, clip=2.0**-4),
        hyper=_hyper(beta2=0.5, nesterov=True),
        scale=1e15,
    )


def _moment_cases() -> Iterator[Case]:
    """Yields cases whose momentum buffers are in 8 bits or in bfloat16."""
    shapes, layers = zip(*_QUANTISED, strict=True)
    common: dict[str, Any] = {"steps": 5, "reload_at": 3, "shapes": shapes, "layers": layers}
    for moment, dtype, name in (
        ("int8", "float32", "rows"),
        ("int8", "float64", DOCUMENTED.name),
        ("int8", "bfloat16", "nvidia"),
        ("int8", "float16", "apex"),
        ("int8", "float32", "nvidia-amsgrad"),
        ("int8", "float32", "apex-inf"),
        ("bfloat16", "float32", "rows"),
        ("bfloat16", "float64", DOCUMENTED.name),
    ):
        variant = get(name)
        yield Case(
            f"{moment} moment, {dtype}, variant {name}",
            dtype=dtype,
            variant=variant,
            hyper=_hyper(
                beta1=0.875,
                beta2=0.75,
                epsilon=2.0**-10,
                weight_decay=0.0625,
                grad_averaging=variant.grad_averaging,
                nesterov=variant.nesterov,
            ),
            schedule=_learning_rate_schedule,
            zero=frozenset({0, 2}),
            moment=moment,
            **common,
        )
    yield Case(
        "int8 moment", moment="int8", missing={0: frozenset({1}), 2: frozenset({0})}, **common
    )


def _rounding_cases() -> Iterator[Case]:
    """Yields cases whose weights are rounded at random."""
    shapes, layers = zip(*_QUANTISED, strict=True)
    of_moments: dict[str, Any] = {"moment": "int8", "shapes": shapes, "layers": layers}
    yield Case("stochastic rounding", "bfloat16", stochastic_rounding=True, steps=10)
    for name, options in (("own dtype", _LAYERS), ("int8", of_moments)):
        for variant in (DOCUMENTED, get("rows")):
            yield Case(
                f"stochastic rounding, moment in {name}, variant {variant.name}",
                dtype="bfloat16",
                variant=variant,
                hyper=_hyper(
                    beta1=0.875, beta2=0.75, weight_decay=0.0625, nesterov=variant.nesterov
                ),
                schedule=_learning_rate_schedule,
                zero=frozenset({0}),
                missing={2: frozenset({0, 3})},
                reload_at=3,
                steps=5,
                stochastic_rounding=True,
                **options,
            )


CASES: tuple[Case, ...] = tuple(_cases())
VARIANT_CASES: tuple[Case, ...] = (*_variant_cases(), *_clip_cases())
MOMENT_CASES: tuple[Case, ...] = tuple(_moment_cases())
ROUNDING_CASES: tuple[Case, ...] = tuple(_rounding_cases())
