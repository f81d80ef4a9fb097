"""The adapters of ``novograd.keras.NovoGrad``.

The program sets the environment variable ``KERAS_BACKEND`` before it imports Keras. With JAX it
also sets ``JAX_ENABLE_X64=1``, because JAX does not support float64 otherwise.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from novograd.conformance.adapters import Adapter, WeightState
from novograd.conformance.cases import Case, CaseHyperparameters
from novograd.keras import NovoGrad


class ApplyAdapter(Adapter):
    """``optimizer.apply``. Saves a compiled model as ``.weights.h5``."""

    counts_each = False

    def __init__(self, case: Case) -> None:
        """Makes a model with the weights of the case, and an optimizer with its state."""
        self._case = case
        self._build(case.weights())

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Sets the hyperparameters as attributes and applies the gradients."""
        for name, value in _arguments(hyper).items():
            setattr(self._optimizer, name, value)
        self._apply([None if g is None else keras.ops.convert_to_tensor(g) for g in gradients])

    def layers(self) -> list[WeightState]:
        """Reads the weights and the optimizer's state, which has a documented order."""
        weights, state = (
            (np.array(keras.ops.convert_to_numpy(x)) for x in variables)
            for variables in (self._weights, self._optimizer.variables[2:])
        )
        found = []
        for w in weights:
            layer = WeightState(w, next(state), next(state))
            if self._case.variant.amsgrad:
                next(state)  # the largest v
            found.append(
                layer._replace(scales=next(state)) if layer.moment.dtype == np.int8 else layer
            )
        return found

    def reload(self) -> None:
        """Saves, makes a new model and optimizer with other weights, and loads."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "model.weights.h5"))
            self._model.save_weights(path)
            self._build([np.ones_like(w) for w in self._case.weights()])
            self._model.load_weights(path)

    def _build(self, weights: list[np.ndarray]) -> None:
        self._model = _Model(weights)
        self._weights = self._model.trainable_variables
        # Keras stores the learning rate in floatx.
        with _floatx("float64" if self._case.dtype == "float64" else "float32"):
            chosen = dict(zip(map(id, self._weights), self._case.layers, strict=True))
            self._optimizer = NovoGrad(
                layers=lambda variable: chosen[id(variable)],
                variant=self._case.variant,
                moment_dtype=self._case.moment,
                **_arguments(self._case.hyperparameters(0)),
            )
        self._optimizer.build(self._weights)
        self._model.compile(self._optimizer)

    def _apply(self, gradients: list[Any]) -> None:
        # Keras would warn about weights without a gradient.
        pairs = zip(gradients, self._weights, strict=True)
        self._optimizer.apply_gradients([(g, w) for g, w in pairs if g is not None])


class StatelessApplyAdapter(ApplyAdapter):
    """``optimizer.stateless_apply``, which takes and returns the values that ``apply`` changes."""

    def _apply(self, gradients: list[Any]) -> None:
        variables = [*self._weights, *self._optimizer.variables]
        values = [keras.ops.convert_to_tensor(x) for x in variables]
        count = len(self._weights)
        for variable, value in zip(
            variables, self._updated(values[count:], gradients, values[:count]), strict=True
        ):
            variable.assign(value)

    def _updated(self, state: list[Any], gradients: list[Any], weights: list[Any]) -> list[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist")
            weights, state = self._optimizer.stateless_apply(state, gradients, weights)
        return [*weights, *state]


class _Model(keras.Model):
    """A model that holds the given weights and computes nothing."""

    def __init__(self, weights: list[np.ndarray]) -> None:
        super().__init__()
        for i, value in enumerate(weights):
            self.add_weight(name=f"w{i}", shape=value.shape, dtype=str(value.dtype)).assign(value)
        self.built = True


VERSION = keras.__version__
VARIANTS = True
MOMENTS = ("int8", "bfloat16")
ADAPTERS: dict[str, type[Adapter]] = {"apply": ApplyAdapter}
if keras.backend.backend() != "tensorflow":  # Keras refuses it on TensorFlow
    ADAPTERS["stateless_apply"] = StatelessApplyAdapter


def _arguments(hyper: CaseHyperparameters) -> dict[str, Any]:
    """Returns the hyperparameters under the names that Keras uses for arguments and attributes."""
    arguments = asdict(hyper)
    arguments |= {f"beta_{i}": arguments.pop(f"beta{i}") for i in (1, 2)}
    return arguments


@contextmanager
def _floatx(dtype: str) -> Iterator[None]:
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
