"""The interface of an adapter, through which the check runs one backend of NovoGrad."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from novograd.conformance.cases import DTYPES, MOMENTS, Case, CaseHyperparameters
from novograd.layers import second_moment_shape
from novograd.quantized import is_quantised, scale_shape


class WeightState(NamedTuple):
    """The stored values of one weight and its state: NumPy copies in the dtypes of storage.

    Attributes:
        weights: The weight.
        moment: The momentum buffer.
        second_moment: The second moments.
        scales: The scales of the blocks of the buffer if it is in 8 bits; else empty.
    """

    weights: np.ndarray
    moment: np.ndarray
    second_moment: np.ndarray
    scales: np.ndarray = np.zeros(0, np.float32)


class Adapter(Protocol):
    """Runs one backend on one case, and holds the weights and the state.

    Attributes:
        rounds_update: Whether the update is rounded to the dtype of the weights before it is added
            to them. Some frameworks require this.
        counts_each: Whether the random numbers of a weight follow the number of its own steps. Some
            frameworks count all steps of the optimizer.
    """

    rounds_update: ClassVar[bool] = False
    counts_each: ClassVar[bool] = True

    def __init__(self, case: Case) -> None:
        """Makes the initial weights of the case and an optimizer."""
        ...

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Takes one step with these gradients and hyperparameters."""
        ...

    def layers(self) -> list[WeightState]:
        """Returns the values stored now, with zeros for state that does not exist yet."""
        ...

    def reload(self) -> None:
        """Saves weights and state to a file, discards all objects, makes new ones, and loads."""
        ...


def compute_dtype(dtype: str) -> np.dtype:
    """Returns the dtype of the second moment and of the arithmetic for weights of this dtype."""
    return DTYPES["float64" if dtype == "float64" else "float32"]


def zero_second_moments(case: Case) -> list[np.ndarray]:
    """Returns the second moment of each weight before the first step."""
    return [
        np.zeros(second_moment_shape(layers, shape), compute_dtype(case.dtype))
        for layers, shape in zip(case.layers, case.shapes, strict=True)
    ]


def zero_states(case: Case) -> list[WeightState]:
    """Returns the initial weights of a case with their state before the first step."""
    states = []
    for w, v in zip(case.weights(), zero_second_moments(case), strict=True):
        dtype, scales = w.dtype, np.zeros(0, np.float32)
        if case.moment is not None and is_quantised(w.shape):
            dtype = MOMENTS[case.moment]
            if case.moment == "int8":
                scales = np.zeros(scale_shape(w.shape), np.float32)
        states.append(WeightState(w, np.zeros(w.shape, dtype), v, scales))
    return states
