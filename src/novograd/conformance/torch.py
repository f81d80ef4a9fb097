"""The adapters of ``novograd.torch.NovoGrad``.

Hyperparameters that change from step to step are set in the parameter group, as torch's schedulers
do.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from novograd import native
from novograd.conformance.adapters import Adapter, WeightState, zero_states
from novograd.conformance.cases import DTYPES, Case, CaseHyperparameters
from novograd.torch import NovoGrad
from novograd.torch.backends import triton


class SingleTensorAdapter(Adapter):
    """The eager backend, one tensor at a time (``foreach=False``)."""

    implementation: Mapping[str, bool | None] = {"foreach": False}
    device = "cpu"

    def __init__(self, case: Case) -> None:
        """Makes the parameters and the optimizer."""
        self._case = case
        self._build(case.weights())

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Sets the gradients and steps."""
        for w, g in zip(self._weights, gradients, strict=True):
            w.grad = None if g is None else _tensor(g).to(self.device)
        self._set(hyper)
        self._step()

    def layers(self) -> list[WeightState]:
        """Reads the parameters and the state."""
        zeros = zero_states(self._case)
        return [self._layer(w, zero) for w, zero in zip(self._weights, zeros, strict=True)]

    def reload(self) -> None:
        """Saves, makes new parameters with other values and a new optimizer, and loads."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "checkpoint.pt")
            weights = [w.detach() for w in self._weights]
            torch.save({"weights": weights, "optimizer": self._optimizer.state_dict()}, path)
            self._build([np.ones_like(w) for w in self._case.weights()])
            stored = torch.load(path, weights_only=True)
        with torch.no_grad():
            for w, x in zip(self._weights, stored["weights"], strict=True):
                w.copy_(x)
        self._optimizer.load_state_dict(stored["optimizer"])

    def _build(self, weights: list[np.ndarray]) -> None:
        self._weights = [torch.nn.Parameter(_tensor(w).to(self.device)) for w in weights]
        hyper = self._case.hyperparameters(0)
        chosen = dict(zip(self._weights, self._case.layers, strict=True))
        self._optimizer = NovoGrad(
            self._weights,
            layers=lambda _, w: chosen[w],
            variant=self._case.variant,
            moment_dtype=getattr(torch, self._case.moment) if self._case.moment else None,
            stochastic_rounding=self._case.stochastic_rounding,
            **self.implementation,
            **_options(hyper),
        )

    def _set(self, hyper: CaseHyperparameters) -> None:
        self._optimizer.param_groups[0].update(_options(hyper))

    def _step(self) -> None:
        self._optimizer.step()

    def _layer(self, weights: torch.Tensor, zero: WeightState) -> WeightState:
        state = self._optimizer.state.get(weights)
        w = _array(weights.detach())
        if not state:
            return zero._replace(weights=w)
        m, v = _array(state["exp_avg"]), _array(state["exp_avg_sq"])
        scales = _array(state["exp_avg_scale"]) if zero.scales.size else zero.scales
        return WeightState(w, m, v, scales)


class ForeachAdapter(SingleTensorAdapter):
    """The foreach backend, all tensors together (``foreach=True``)."""

    implementation: Mapping[str, bool | None] = {"foreach": True}


class FusedAdapter(SingleTensorAdapter):
    """The native kernels: ``fused=True``, or None if they may not support all layers."""

    def _build(self, weights: list[np.ndarray]) -> None:
        self.implementation = {"fused": True if self._supports_all() else None}
        super()._build(weights)

    def _supports_all(self) -> bool:
        return not any(self._case.layers)


class TritonAdapter(FusedAdapter):
    """The Triton kernels, on a GPU or in Triton's interpreter: ``fused=True``, or None as above."""

    device = "cpu" if triton.INTERPRETED else "cuda"

    def _supports_all(self) -> bool:
        variant = self._case.variant
        return super()._supports_all() and not variant.amsgrad and variant.norm == "l2"


class CompiledAdapter(SingleTensorAdapter):
    """``torch.compile`` of ``NovoGrad.step``, with the learning rate in a tensor."""

    def _build(self, weights: list[np.ndarray]) -> None:
        super()._build(weights)
        torch.compiler.reset()
        self._compiled = torch.compile(self._optimizer.step)

    def _set(self, hyper: CaseHyperparameters) -> None:
        lr = torch.tensor(hyper.learning_rate, dtype=torch.float64)
        self._optimizer.param_groups[0].update(_options(hyper) | {"lr": lr})

    def _step(self) -> None:
        self._compiled()


class CompiledForeachAdapter(CompiledAdapter, ForeachAdapter):
    """The compiled foreach backend."""


class CompiledFusedAdapter(CompiledAdapter, FusedAdapter):
    """The native kernels, called by a compiled program."""


VERSION = torch.__version__
VARIANTS = True
MOMENTS = ("int8", "bfloat16")
ROUNDS_WEIGHTS = True
ADAPTERS = {
    "single-tensor": SingleTensorAdapter,
    "foreach": ForeachAdapter,
    "foreach, compiled": CompiledForeachAdapter,
}
if native.kernels:
    ADAPTERS |= {"fused": FusedAdapter, "fused, compiled": CompiledFusedAdapter}
if torch.cuda.is_available() and triton.installed():
    ADAPTERS |= {"fused, GPU": TritonAdapter}
COMPILED = [name for name, adapter in ADAPTERS.items() if issubclass(adapter, CompiledAdapter)]


def _options(hyper: CaseHyperparameters) -> dict[str, Any]:
    return {
        "lr": hyper.learning_rate,
        "betas": (hyper.beta1, hyper.beta2),
        "eps": hyper.epsilon,
        "weight_decay": hyper.weight_decay,
        "grad_averaging": hyper.grad_averaging,
        "nesterov": hyper.nesterov,
    }


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Copies an array into a tensor. torch does not support NumPy's bfloat16."""
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Copies a tensor into an array."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(DTYPES["bfloat16"]).copy()
    return tensor.numpy().copy()
