"""The rule itself on NumPy, and the native kernels, behind the protocol of the check."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np

from novograd import native, rule
from novograd.conformance.adapters import Adapter, Layer, compute_dtype
from novograd.conformance.cases import Case, Hyperparameters


class RuleAdapter(Adapter):
    """``novograd.rule`` on NumPy arrays, stored as the frameworks store them."""

    def __init__(self, case: Case) -> None:
        """Sets up the case's initial weights and zero state."""
        self._compute = compute_dtype(case.dtype)
        self._layers = [
            Layer(w, np.zeros_like(w), np.zeros((), self._compute)) for w in case.weights()
        ]

    def step(self, gradients: list[np.ndarray | None], hyper: Hyperparameters) -> None:
        """Takes one step with these gradients and hyperparameters."""
        self._layers = [
            layer if g is None else self._step_layer(layer, g, hyper)
            for layer, g in zip(self._layers, gradients, strict=True)
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

    def _step_layer(self, layer: Layer, gradient: np.ndarray, hyper: Hyperparameters) -> Layer:
        w, m, v, g = (x.astype(self._compute) for x in (*layer, gradient))
        s = np.sum(g * g, dtype=self._compute)
        v = rule.second_moment(s, v, beta2=0.0 if v == 0 else hyper.beta2)
        scalars = rule.coefficients(
            v,
            lr=hyper.learning_rate,
            beta1=hyper.beta1,
            epsilon=max(hyper.epsilon, float(np.finfo(self._compute).tiny)),
            weight_decay=hyper.weight_decay,
            grad_averaging=hyper.grad_averaging,
        )
        w, m = rule.linear_pass(w, m, g, scalars, beta1=hyper.beta1, nesterov=hyper.nesterov)
        stored = layer.weights.dtype
        return Layer(np.asarray(w, stored), np.asarray(m, stored), np.asarray(v, self._compute))


class NativeAdapter(RuleAdapter):
    """The native kernels, in place."""

    threads: ClassVar[int] = 2

    def step(self, gradients: list[np.ndarray | None], hyper: Hyperparameters) -> None:
        """Takes one step of all layers that have a gradient, in one call."""
        given = [
            (layer, g) for layer, g in zip(self._layers, gradients, strict=True) if g is not None
        ]
        layers = native.kernels.Layers(
            kinds=[native.kernels.KINDS.index((g.dtype.name,) * 3) for _, g in given],
            sizes=[g.size for _, g in given],
            weights=[layer.weights.ctypes.data for layer, _ in given],
            gradients=[g.ctypes.data for _, g in given],
            moments=[layer.moment.ctypes.data for layer, _ in given],
            vs=[layer.second_moment.ctypes.data for layer, _ in given],
        )
        options = asdict(hyper)
        rule = native.documented(lr=options.pop("learning_rate"), **options)
        layers.step(rule, self.threads)

    def reload(self) -> None:
        """Saves and loads, into arrays that may be written to."""
        super().reload()
        self._layers = self.layers()


VERSION = np.__version__
ADAPTERS = {"rule": RuleAdapter}
if native.kernels:
    ADAPTERS["native kernels"] = NativeAdapter
