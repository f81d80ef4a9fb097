"""The optimizers that can be compared, with the same settings in every framework."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from novograd.layers import Rows


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with all its settings except the learning rate.

    Attributes:
        title: Its name in tables.
        kind: The algorithm: ``"novograd"``, ``"adamw"``, ``"adam"`` or ``"sgd"``.
        settings: Its settings, by common names that each framework's module translates.
        middle: The middle of the search for its learning rate.
        colour: Colour of its curves, from the palette of Okabe and Ito, which colour-blind people
            can distinguish.
        defaults: By framework, the default learning rate of the class used there, if it has one.
        layers: NovoGrad's layers; None if a layer is a whole tensor.
    """

    title: str
    kind: str
    settings: Mapping[str, float | bool]
    middle: float
    colour: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    layers: Rows | None = None


_NOVOGRAD = {"beta1": 0.95, "beta2": 0.98, "weight_decay": 1e-3}
_RECIPE = {"beta1": 0.9, "beta2": 0.98}  # the recipe of docs/layers.md
_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

OPTIMIZERS: dict[str, Optimizer] = {
    "novograd": Optimizer(
        "NovoGrad", "novograd", _NOVOGRAD, 1e-2, "#D55E00", {"tensorflow": 1.0, "torch": 0.01}
    ),
    "novograd:rows": Optimizer(
        "NovoGrad, rows", "novograd", _NOVOGRAD, 1e-2, "#E69F00",
        {"tensorflow": 1.0, "torch": 0.01}, Rows(),
    ),
    "novograd:rows-rms": Optimizer(
        "NovoGrad, rows rms", "novograd", _RECIPE, 1e-3, "#CC79A7",
        {"tensorflow": 1.0, "torch": 0.01}, Rows(scale="rms"),
    ),
    "adamw": Optimizer(
        "AdamW", "adamw", {**_ADAM, "weight_decay": 1e-2}, 3e-3, "#0072B2",
        {"tensorflow": 1e-3, "torch": 1e-3},
    ),
    "adam": Optimizer(
        "Adam", "adam", _ADAM, 3e-3, "#56B4E9", {"tensorflow": 1e-3, "torch": 1e-3}
    ),
    "sgd": Optimizer(
        "SGD, Nesterov", "sgd", {"momentum": 0.9, "nesterov": True}, 1e-1, "#009E73",
        {"torch": 1e-3},
    ),
}  # fmt: skip


def grid(middle: float, points: int) -> list[float]:
    """Returns learning rates about a factor of 3 apart: 1 and 3 times powers of ten.

    Args:
        middle: The middle of the result: 1 or 3 times a power of ten, or it is moved to one.
        points: Number of learning rates; odd.

    Example:
        >>> grid(0.01, 5)
        [0.001, 0.003, 0.01, 0.03, 0.1]
        >>> grid(0.003, 3)
        [0.001, 0.003, 0.01]
    """
    exponent = math.floor(math.log10(middle) + 1e-9)
    leading = middle / 10.0**exponent
    place = 2 * exponent + (leading > 2)
    return [
        float(f"{(1, 3)[i % 2]}e{i // 2}")
        for i in range(place - points // 2, place + points // 2 + 1)
    ]
