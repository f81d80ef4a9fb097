"""What a step of Keras variables needs, for those who take it for all of them at once."""

from typing import Any, NamedTuple


class Layer(NamedTuple):
    """One variable's part in a step.

    Attributes:
        gradient: Its gradient, a tensor of the backend.
        variable: The variable.
        momentum: The variable of its moment.
        v: The variable of its second moment.
        weight_decay: What holds for it.
    """

    gradient: Any
    variable: Any
    momentum: Any
    v: Any
    weight_decay: float


class Hyperparameters(NamedTuple):
    """What holds for all of them."""

    learning_rate: Any
    beta_1: float
    beta_2: float
    epsilon: float
    grad_averaging: bool
    nesterov: bool
