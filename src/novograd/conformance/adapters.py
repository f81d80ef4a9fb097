"""What the check needs of a NovoGrad to be checked."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from novograd.conformance.cases import DTYPES, Case, CaseHyperparameters
from novograd.layers import second_moment_shape


class WeightState(NamedTuple):
    """What is stored for one weight, as NumPy copies in the dtypes in which it is stored."""

    weights: np.ndarray
    moment: np.ndarray
    second_moment: np.ndarray


class Adapter(Protocol):
    """One way to run NovoGrad. An adapter is made from a case and holds its weights and state.

    Attributes:
        rounds_update: Whether the step is rounded to the dtype of the weights before it is
            added to them, as the idiom of the framework may demand.
    """

    rounds_update: ClassVar[bool] = False

    def __init__(self, case: Case) -> None:
        """Sets up the case's initial weights and an optimizer."""
        ...

    def step(self, gradients: list[np.ndarray | None], hyper: CaseHyperparameters) -> None:
        """Takes one step with these gradients and hyperparameters."""
        ...

    def layers(self) -> list[WeightState]:
        """Returns what is stored now; zeros for state that does not exist yet."""
        ...

    def reload(self) -> None:
        """Saves weights and state to a file, discards all objects, makes new ones and loads."""
        ...


def compute_dtype(dtype: str) -> np.dtype:
    """Returns the dtype of v and of the arithmetic for weights of a dtype."""
    return DTYPES["float64" if dtype == "float64" else "float32"]


def zero_second_moments(case: Case) -> list[np.ndarray]:
    """Returns the v of each weight before the first step."""
    return [
        np.zeros(second_moment_shape(layers, shape), compute_dtype(case.dtype))
        for layers, shape in zip(case.layers, case.shapes, strict=True)
    ]
