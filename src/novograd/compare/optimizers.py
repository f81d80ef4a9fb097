"""The optimizers that can be compared, with the same settings in every framework."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with all its settings except the learning rate.

    Attributes:
        title: Its name in tables.
        kind: The algorithm: ``"novograd"``, ``"adamw"``, ``"nadamw"``, ``"adam"`` or ``"sgd"``.
        settings: Its settings, by common names that each framework's module translates.
        middle: The middle of the search for its learning rate.
        colour: Colour of its curves, from the palette of Okabe and Ito, which colour-blind people
            can distinguish.
        defaults: By framework, the default learning rate of the class used there, if it has one.
        variant: The variant of NovoGrad.
    """

    title: str
    kind: str
    settings: Mapping[str, float | bool]
    middle: float
    colour: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    variant: str = "documented"


_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

OPTIMIZERS: dict[str, Optimizer] = {
    "novograd": Optimizer(
        "NovoGrad", "novograd", {"beta1": 0.95, "beta2": 0.98, "weight_decay": 1e-3}, 1e-2,
        "#D55E00", {"tensorflow": 1.0, "torch": 0.01},
    ),
    "novograd:rows": Optimizer(
        "NovoGrad, rows", "novograd", {"weight_decay": 1e-2}, 3e-3, "#E69F00",
        {"tensorflow": 1e-3, "torch": 1e-3}, "rows",
    ),
    "adamw": Optimizer(
        "AdamW", "adamw", {**_ADAM, "weight_decay": 1e-2}, 3e-3, "#0072B2",
        {"tensorflow": 1e-3, "torch": 1e-3},
    ),
    "nadamw": Optimizer(
        "NAdamW", "nadamw", {**_ADAM, "weight_decay": 1e-2}, 3e-3, "#CC79A7",
        {"tensorflow": 1e-3, "torch": 2e-3},
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
