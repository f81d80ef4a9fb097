"""The rule itself on NumPy, and the native kernels, behind the protocol of the check."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from novograd import native, rule
from novograd.conformance.adapters import Adapter, Layer, compute_dtype, zero_second_moments
from novograd.conformance.cases import Case, Hyperparameters
from novograd.layers import Layers, Split, step_scale


class RuleAdapter(Adapter):
    """``novograd.rule`` on NumPy arrays, stored as the frameworks store them."""

    def __init__(self, case: Case) -> None:
        """Sets up the case's initial weights and zero state."""
        self._case = case
        self._compute = compute_dtype(case.dtype)
        self._layers = [
            Layer(w, np.zeros_like(w), v)
            for w, v in zip(case.weights(), zero_second_moments(case), strict=True)
        ]

    def step(self, gradients: list[np.ndarray | None], hyper: Hyperparameters) -> None:
        """Takes one step with these gradients and hyperparameters."""
        self._layers = [
            layer if g is None else self._step_layer(layer, g, hyper, layers)
            for layer, g, layers in zip(self._layers, gradients, self._case.layers, strict=True)
        ]

    def layers(self) -> list[Layer]:
        """Returns copies of what is stored now."""
        return [Layer(*(x.copy() for x in layer)) for layer in self._layers]

    def reload(self) -> None:
        """Saves to a real file and loads from it. Raw bytes: .npy knows no bfloat16."""
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
            layers.append(Layer(*arrays))
        self._layers = layers

    def _step_layer(
        self, layer: Layer, gradient: np.ndarray, hyper: Hyperparameters, layers: Layers
    ) -> Layer:
        w, m, v, g = (x.astype(self._compute) for x in (*layer, gradient))
        s = _squared_norms(g, v.shape, layers)
        v = rule.second_moment(s, v, beta2=np.where(v == 0, 0.0, hyper.beta2))
        scalars = rule.coefficients(
            v,
            lr=hyper.learning_rate,
            beta1=hyper.beta1,
            epsilon=max(hyper.epsilon, float(np.finfo(self._compute).tiny)),
            weight_decay=hyper.weight_decay,
            grad_averaging=hyper.grad_averaging,
            scale=step_scale(layers, g.shape),
        )
        if isinstance(layers, Split):
            scalars = scalars._replace(a=np.repeat(scalars.a, layers.sizes, layers.axis))
        w, m = rule.linear_pass(w, m, g, scalars, beta1=hyper.beta1, nesterov=hyper.nesterov)
        stored = layer.weights.dtype
        return Layer(np.asarray(w, stored), np.asarray(m, stored), np.asarray(v, self._compute))


class NativeAdapter(RuleAdapter):
    """The native kernels, in place; the rule where they cannot find a weight's layers."""

    threads: ClassVar[int] = 2

    def step(self, gradients: list[np.ndarray | None], hyper: Hyperparameters) -> None:
        """Takes one step of all layers that have a gradient, in one call."""
        parts, rest = [], list(gradients)
        for i, g in enumerate(gradients):
            if g is None:
                continue
            found = _parts(self._layers[i], g, self._case.layers[i])
            if all(part.grid for part in found):
                parts += found
                rest[i] = None
        layers = native.kernels.Layers(
            kinds=[native.kernels.KINDS.index((part.gradient.dtype.name,) * 3) for part in parts],
            grids=[part.grid for part in parts],
            scales=[part.scale for part in parts],
            weights=[part.layer.weights.ctypes.data for part in parts],
            gradients=[part.gradient.ctypes.data for part in parts],
            moments=[part.layer.moment.ctypes.data for part in parts],
            vs=[part.layer.second_moment.ctypes.data for part in parts],
        )
        options = asdict(hyper)
        rule = native.documented(lr=options.pop("learning_rate"), **options)
        layers.step(rule, self.threads)
        super().step(rest, hyper)

    def reload(self) -> None:
        """Saves and loads, into arrays that may be written to."""
        super().reload()
        self._layers = self.layers()


def _squared_norms(g: np.ndarray, shape: tuple[int, ...], layers: Layers) -> np.ndarray:
    """Returns the sums of the squares of each layer, in the shape of v."""
    parts = [g]
    if isinstance(layers, Split):
        parts = np.split(g, np.cumsum(layers.sizes)[:-1], layers.axis)
        shape = (1,) * g.ndim
    axes = tuple(i for i, size in enumerate(shape or g.shape) if size == 1 or not shape)
    sums = [np.sum(part * part, axis=axes, keepdims=shape != (), dtype=g.dtype) for part in parts]
    return np.concatenate(sums, layers.axis) if isinstance(layers, Split) else np.asarray(sums[0])


class _Part(NamedTuple):
    """Views of a weight, its state and gradient that are one tensor to the kernels."""

    layer: Layer
    gradient: np.ndarray
    grid: tuple[int, int, int, int] | None
    scale: float


def _parts(layer: Layer, g: np.ndarray, layers: Layers) -> list[_Part]:
    columns = [[layer.weights], [layer.moment], [layer.second_moment], [g]]
    if isinstance(layers, Split):
        ends = np.cumsum(layers.sizes)[:-1]
        columns = [np.split(x, ends, layers.axis) for x in (layer.weights, layer.moment)]
        columns.append(np.split(layer.second_moment, len(layers.sizes), layers.axis))
        columns.append(np.split(g, ends, layers.axis))
    scale = step_scale(layers, g.shape)
    return [
        _Part(Layer(w, m, v), part, native.grid(w.shape, _strides(w), v.shape), scale)
        for w, m, v, part in zip(*columns, strict=True)
    ]


def _strides(x: np.ndarray) -> tuple[int, ...]:
    """Returns the strides in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)


VERSION = np.__version__
ADAPTERS = {"rule": RuleAdapter}
if native.kernels:
    ADAPTERS["native kernels"] = NativeAdapter
