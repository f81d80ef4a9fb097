"""The adapters of ``novograd.jax.novograd``.

Hyperparameters that change from step to step are set through ``optax.inject_hyperparams``. A
missing gradient is None in the tree of gradients, and the update is then also None.
"""

import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from novograd import native
from novograd.conformance.adapters import Adapter, WeightState, compute_dtype
from novograd.conformance.cases import Case, CaseHyperparameters
from novograd.jax import novograd


class EagerAdapter(Adapter):
    """``init`` and ``update`` without ``jax.jit``: JAX runs one operation at a time.

    Attributes:
        fused: The argument ``fused`` of the optimizer: whether to require the native kernels.
    """

    rounds_update = True
    counts_each = False
    fused: ClassVar[bool] = False

    def __init__(self, case: Case) -> None:
        """Makes weights, optimizer and state."""
        self._case = case
        self._set_up()
        with self._precision():
            self._weights = [jnp.asarray(w) for w in case.weights()]
            self._state: Any = self._optimizer.init(self._weights)

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Updates the state, and the weights of the layers that have a gradient."""
        with self._precision():
            if self._case.schedule:
                self._state.hyperparams.update(
                    learning_rate=self._scalar(hyper.learning_rate),
                    b1=self._scalar(hyper.beta1),
                    b2=self._scalar(hyper.beta2),
                    weight_decay=self._scalar(hyper.weight_decay),
                )
            self._weights, self._state = self._step(
                [None if g is None else jnp.asarray(g) for g in gradients],
                self._weights,
                self._state,
            )

    def layers(self) -> list[WeightState]:
        """Copies the weights and the state."""
        state = self._state.inner_state if self._case.schedule else self._state
        scales = getattr(state, "mu_scale", [np.zeros(())] * len(self._weights))
        none = np.zeros(0, np.float32)
        each = zip(self._weights, state.mu, state.nu, scales, strict=True)
        return [
            WeightState(
                np.array(w), np.array(mu), np.array(nu), np.array(held) if held.ndim else none
            )
            for w, mu, nu, held in each
        ]

    def reload(self) -> None:
        """Saves NumPy arrays, makes a new optimizer, and loads the arrays."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "state")
            file.write_bytes(pickle.dumps(jax.device_get((self._weights, self._state))))
            self._set_up()
            with self._precision():
                self._weights, self._state = jax.tree.map(
                    jnp.asarray, pickle.loads(file.read_bytes())
                )

    def _set_up(self) -> None:
        self._optimizer = _optimizer(self._case, self._fused())

    def _fused(self) -> bool | None:
        """Returns None if the kernels may not support the layers of a weight."""
        return None if self.fused and any(self._case.layers) else self.fused

    def _scalar(self, value: float) -> jax.Array:
        return jnp.asarray(value, compute_dtype(self._case.dtype))

    def _step(self, gradients: list[Any], weights: list[Any], state: Any) -> tuple[list[Any], Any]:
        updates: Any
        updates, state = self._optimizer.update(gradients, state, weights)
        # optax.apply_updates does not accept None as the update of a weight.
        weights = [
            w if u is None else optax.apply_updates(w, u)
            for w, u in zip(weights, updates, strict=True)
        ]
        return weights, state

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Enables float64 in the cases that need it, and only in these."""
        before = jax.config.read("jax_enable_x64")
        jax.config.update("jax_enable_x64", self._case.dtype == "float64")
        try:
            yield
        finally:
            jax.config.update("jax_enable_x64", before)


class JitAdapter(EagerAdapter):
    """``update`` inside ``jax.jit``, with donated weights and state."""

    def _set_up(self) -> None:
        super()._set_up()
        self._step = jax.jit(super()._step, donate_argnums=(1, 2))


class FusedEagerAdapter(EagerAdapter):
    """The native kernels, without ``jax.jit``: one compiled call for each step."""

    fused = True


class FusedJitAdapter(JitAdapter):
    """The native kernels inside ``jax.jit``, with donated weights and state."""

    fused = True


class FusedStepAdapter(EagerAdapter):
    """``step`` with the native kernels, inside ``jax.jit``, with donated weights and state.

    If hyperparameters change, the jitted function makes the optimizer with arrays as arguments.
    """

    rounds_update = False
    fused = True

    def __init__(self, case: Case) -> None:
        """Makes weights and state."""
        self._scheduled = case.schedule is not None
        super().__init__(replace(case, schedule=None))

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Replaces the weights and the state."""
        with self._precision():
            changing = (hyper.learning_rate, hyper.beta1, hyper.beta2, hyper.weight_decay)
            self._weights, self._state = self._take(
                self._weights,
                self._state,
                [None if g is None else jnp.asarray(g) for g in gradients],
                [self._scalar(x) for x in changing] if self._scheduled else None,
            )

    def _set_up(self) -> None:
        super()._set_up()
        self._take = jax.jit(self._whole_step, donate_argnums=(0, 1))

    def _whole_step(
        self, weights: list[Any], state: Any, gradients: list[Any], changing: list[Any] | None
    ) -> tuple[list[Any], Any]:
        hyper = self._case.hyper
        if changing:
            names = ("learning_rate", "beta1", "beta2", "weight_decay")
            hyper = replace(hyper, **dict(zip(names, changing, strict=True)))
        optimizer = _from(novograd, self._case, hyper, self._fused())
        return optimizer.step(weights, state, gradients)


VERSION = jax.__version__
VARIANTS = True
MOMENTS = ("int8",)  # as in other transformations of optax, bfloat16 is for all leaves
ADAPTERS = {"eager": EagerAdapter, "jit": JitAdapter}
if native.kernels is not None:
    ADAPTERS |= {
        "fused, eager": FusedEagerAdapter,
        "fused, jit": FusedJitAdapter,
        "fused, step": FusedStepAdapter,
    }


def _optimizer(case: Case, fused: bool | None) -> optax.GradientTransformationExtraArgs:
    """Makes the optimizer of a case, with the hyperparameters of the first step."""
    make = novograd
    if case.schedule:
        make = optax.inject_hyperparams(novograd, hyperparam_dtype=compute_dtype(case.dtype))
    return _from(make, case, case.hyperparameters(0), fused)


def _from(make: Any, case: Case, hyper: CaseHyperparameters, fused: bool | None) -> Any:
    return make(
        hyper.learning_rate,
        hyper.beta1,
        hyper.beta2,
        hyper.epsilon,
        hyper.weight_decay,
        hyper.grad_averaging,
        nesterov=hyper.nesterov,
        variant=case.variant,
        mu_dtype=case.moment,
        layers=list(case.layers),  # a tree with the structure of the weights
        fused=fused,
    )
