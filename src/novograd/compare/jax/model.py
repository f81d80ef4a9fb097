"""The form in which the trainer for JAX uses a model of any kind."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Model(NamedTuple):
    """A model as arrays and a function without state.

    Attributes:
        weights: The weights that are trained, a tree. The last key of a path is the weight's own
            name: NovoGrad finds the rows of an embedding by it.
        others: The other arrays, a tree: statistics, random keys, counts.
        call: ``(weights, others, inputs, training) -> (outputs, others)`` for a batch.
        versions: The version of the package of the model.
        rows: The axis of the output units in all weights; None for the layout of Keras and Flax.
    """

    weights: Any
    others: Any
    call: Callable[[Any, Any, Any, bool], tuple[Any, Any]]
    versions: Mapping[str, str]
    rows: int | None = None
