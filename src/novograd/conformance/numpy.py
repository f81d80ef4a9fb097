"""The adapters of the rule on NumPy arrays, and of the native kernels."""

import math
import tempfile
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from novograd import native, quantized, rounding, rule
from novograd.conformance.adapters import (
    Adapter,
    WeightState,
    compute_dtype,
    zero_second_moments,
    zero_states,
)
from novograd.conformance.cases import Case, CaseHyperparameters
from novograd.layers import Layers, Split, step_scale


class RuleAdapter(Adapter):
    """``novograd.rule`` on NumPy arrays, which are stored in the same dtypes as in the frameworks.

    The count of steps and the largest ``v`` of amsgrad stay in memory during a reload.
    """

    def __init__(self, case: Case) -> None:
        """Makes the initial weights of the case and a state of zeros."""
        self._case = case
        self._variant = case.variant
        self._compute = compute_dtype(case.dtype)
        self._count = 0
        self._largest = zero_second_moments(case)
        self._layers = zero_states(case)
        self._counts = [0] * len(self._layers)

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Takes one step with these gradients and hyperparameters."""
        for i, g in enumerate(gradients):
            if g is not None:
                self._layers[i] = self._step_layer(self._layers[i], g, hyper, i)
                self._counts[i] += 1
        self._count += 1

    def layers(self) -> list[WeightState]:
        """Returns copies of the values stored now."""
        return [WeightState(*(x.copy() for x in layer)) for layer in self._layers]

    def reload(self) -> None:
        """Saves raw bytes to a file and loads them. The .npy format does not support bfloat16."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "state")
            file.write_bytes(b"".join(x.tobytes() for layer in self._layers for x in layer))
            stored = file.read_bytes()
        layers, start = [], 0
        for layer in self._layers:
            arrays = []
            for x in layer:
                arrays.append(np.frombuffer(stored, x.dtype, x.size, start).reshape(x.shape))
                start += x.nbytes
            layers.append(WeightState(*arrays))
        self._layers = layers

    def _step_layer(
        self, layer: WeightState, gradient: np.ndarray, hyper: CaseHyperparameters, index: int
    ) -> WeightState:
        layers = self._case.layers[index]
        w, v, g = (x.astype(self._compute) for x in (layer.weights, layer.second_moment, gradient))
        m = _wide(layer, self._compute)
        s = _layer_norms(g, v.shape, layers, self._variant.norm)
        numbers = self._numbers(hyper, floor=float(np.finfo(self._compute).tiny))
        largest = self._largest[index] if self._variant.amsgrad else None
        scale = step_scale(layers, g.shape)
        v, largest, scalars = rule.advance(s, v, numbers, scale, largest, xp=np)
        if largest is not None:
            self._largest[index] = largest
        if isinstance(layers, Split):
            scalars = rule.Coefficients(
                *(
                    x if np.ndim(x) == 0 else np.repeat(x, layers.sizes, layers.axis)
                    for x in scalars
                )
            )
        w, m = rule.linear_pass(w, m, g, scalars, beta1=hyper.beta1, nesterov=hyper.nesterov)
        count = self._counts[index]
        m, scales = _rounded(layer, m, count)
        if self._case.stochastic_rounding:
            bits = _random_bits(rounding.FOR_WEIGHTS, count, g.shape)
            w = rounding.to_bfloat16(np.asarray(w, np.float32), bits, xp=np)
        return WeightState(
            np.asarray(w, layer.weights.dtype), m, np.asarray(v, self._compute), scales
        )

    def _numbers(self, hyper: CaseHyperparameters, floor: float = 0.0) -> rule.Numbers:
        return rule.numbers(
            self._variant,
            lr=hyper.learning_rate,
            beta1=hyper.beta1,
            beta2=hyper.beta2,
            epsilon=hyper.epsilon,
            weight_decay=hyper.weight_decay,
            grad_averaging=hyper.grad_averaging,
            floor=floor,
            count=float(self._count),
        )


class NativeAdapter(RuleAdapter):
    """The native kernels, in place; the rule updates weights that the kernels do not support."""

    threads: ClassVar[int] = 2

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Takes one step of all weights that have a gradient, in one call of the kernels."""
        rounds = self._case.moment or self._case.stochastic_rounding
        if rounds or self._variant.amsgrad or self._variant.norm == "inf":
            return super().step(gradients, hyper)  # the kernels only compute sums of squares
        parts, rest = [], list(gradients)
        for i, g in enumerate(gradients):
            if g is None:
                continue
            found = _parts(self._layers[i], g, self._case.layers[i])
            if all(part.grid for part in found):
                parts += found
                rest[i] = None
        tensors = native.kernels.Tensors(
            kinds=[native.kernels.KINDS.index((part.gradient.dtype.name,) * 3) for part in parts],
            grids=[part.grid for part in parts],
            scales=[part.scale for part in parts],
            weights=[part.layer.weights.ctypes.data for part in parts],
            gradients=[part.gradient.ctypes.data for part in parts],
            moments=[part.layer.moment.ctypes.data for part in parts],
            vs=[part.layer.second_moment.ctypes.data for part in parts],
        )
        numbers = self._numbers(hyper)
        tensors.step(native.arguments(numbers, nesterov=hyper.nesterov), self.threads)
        return super().step(rest, hyper)

    def reload(self) -> None:
        """Saves and loads, and copies the loaded arrays because they are read-only."""
        super().reload()
        self._layers = self.layers()


def _layer_norms(g: np.ndarray, shape: tuple[int, ...], layers: Layers, norm: str) -> np.ndarray:
    """Returns the norm of each layer that v averages, in the shape of v."""
    squares, total = (g * g, np.sum) if norm == "l2" else (np.abs(g), partial(np.max, initial=0))
    parts = [squares]
    if isinstance(layers, Split):
        parts = np.split(squares, np.cumsum(layers.sizes)[:-1], layers.axis)
        shape = (1,) * g.ndim
    axes = tuple(i for i, size in enumerate(shape or g.shape) if size == 1 or not shape)
    sums = [total(part, axis=axes, keepdims=shape != ()) for part in parts]
    return np.concatenate(sums, layers.axis) if isinstance(layers, Split) else np.asarray(sums[0])


def _wide(layer: WeightState, dtype: np.dtype) -> np.ndarray:
    """Returns a momentum buffer in the dtype of the arithmetic."""
    if not layer.scales.size:
        return layer.moment.astype(dtype)
    blocks = quantized.to_blocks(layer.moment, layer.scales.shape, _pad)
    wide = blocks.astype(dtype) * layer.scales[..., np.newaxis]
    return quantized.from_blocks(wide, layer.moment.shape)


def _rounded(layer: WeightState, m: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a new momentum buffer in the dtype of storage, and its scales."""
    if not layer.scales.size:
        return np.asarray(m, layer.moment.dtype), layer.scales
    shape = layer.scales.shape
    bits = _random_bits(rounding.FOR_MOMENT, step, m.shape)
    blocks = (quantized.to_blocks(x, shape, _pad) for x in (m, bits))
    q, scales = quantized.quantised(*blocks, xp=np, float32=np.float32)
    return quantized.from_blocks(q, m.shape).astype(np.int8), scales


def _random_bits(purpose: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the random bits of the elements of an array after the given number of steps."""
    numbers = np.arange(math.prod(shape))
    words = (np.asarray(x, np.int32) for x in (numbers >> 1, numbers >> 33, numbers & 1))
    return rounding.random_bits(purpose, np.full(1, step, np.int32), *words).reshape(shape)


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    """Appends zeros along the last axis."""
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, count)])


class _Part(NamedTuple):
    """Views of a weight, its state and its gradient that the kernels update as one tensor."""

    layer: WeightState
    gradient: np.ndarray
    grid: tuple[int, int, int, int] | None
    scale: float


def _parts(layer: WeightState, g: np.ndarray, layers: Layers) -> list[_Part]:
    columns = [[layer.weights], [layer.moment], [layer.second_moment], [g]]
    if isinstance(layers, Split):
        ends = np.cumsum(layers.sizes)[:-1]
        columns = [np.split(x, ends, layers.axis) for x in (layer.weights, layer.moment)]
        columns.append(np.split(layer.second_moment, len(layers.sizes), layers.axis))
        columns.append(np.split(g, ends, layers.axis))
    scale = step_scale(layers, g.shape)
    return [
        _Part(WeightState(w, m, v), part, _grid(w, v), scale)
        for w, m, v, part in zip(*columns, strict=True)
    ]


def _grid(w: np.ndarray, v: np.ndarray) -> tuple[int, int, int, int] | None:
    return native.grid(w.shape, _strides(w), v.shape, columns=True)


def _strides(x: np.ndarray) -> tuple[int, ...]:
    """Returns the strides in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)


VERSION = np.__version__
VARIANTS = True
MOMENTS = ("int8", "bfloat16")
ROUNDS_WEIGHTS = True
ADAPTERS = {"rule": RuleAdapter}
if native.kernels:
    ADAPTERS["native kernels"] = NativeAdapter
