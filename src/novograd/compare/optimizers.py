"""The optimizers that can be compared, with the same settings in every framework."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from novograd import variants

OWN = "own"  # the kind of an optimizer that is not in this module


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with all its settings except the learning rate.

    Attributes:
        title: Its name in tables.
        kind: The algorithm: ``"novograd"``, ``"adamw"``, ``"nadamw"``, ``"adam"``, ``"sgd"``, or
            ``OWN``.
        settings: Its settings, by common names that each framework's module translates.
        middle: The middle of the search for its learning rate.
        defaults: By framework, the default learning rate of the class used there, if it has one.
        variant: The variant of NovoGrad.
        place: For ``OWN``: the place of the class or function, see ``load.find_class``.
        arguments: More arguments, by the names of the framework's class; they replace settings.
    """

    title: str
    kind: str
    settings: Mapping[str, float | bool]
    middle: float
    defaults: Mapping[str, float] = field(default_factory=dict)
    variant: str = "documented"
    place: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
_OWN_MIDDLE = 1e-3  # the middle for an optimizer that has no default learning rate

OPTIMIZERS: dict[str, Optimizer] = {
    "novograd": Optimizer(
        "NovoGrad", "novograd", {"beta1": 0.95, "beta2": 0.98, "weight_decay": 1e-3}, 1e-2,
        {"tensorflow": 1.0, "torch": 0.01},
    ),
    "novograd:rows": Optimizer(
        "NovoGrad rows", "novograd", {"weight_decay": 1e-2}, 1e-2,
        {"tensorflow": 1e-3, "torch": 1e-3}, "rows",
    ),
    "adamw": Optimizer(
        "AdamW", "adamw", {**_ADAM, "weight_decay": 1e-2}, 3e-3,
        {"tensorflow": 1e-3, "torch": 1e-3},
    ),
    "nadamw": Optimizer(
        "NAdamW", "nadamw", {**_ADAM, "weight_decay": 1e-2}, 3e-3,
        {"tensorflow": 1e-3, "torch": 2e-3},
    ),
    "adam": Optimizer("Adam", "adam", _ADAM, 3e-3, {"tensorflow": 1e-3, "torch": 1e-3}),
    "sgd": Optimizer(
        "Nesterov SGD", "sgd", {"momentum": 0.9, "nesterov": True}, 1e-1, {"torch": 1e-3}
    ),
}  # fmt: skip


def find(name: str) -> Optimizer:
    """Returns an optimizer by its name on the command line.

    Args:
        name: A key of ``OPTIMIZERS``; ``novograd:NAME`` for a variant of NovoGrad; or the place of
            another class or function, see ``novograd.compare.load.find_class``.

    Raises:
        KeyError: If the name is none of these.

    Example:
        >>> find("adamw").title, find("novograd:tfa").title, find("torch.optim.RAdam").title
        ('AdamW', 'NovoGrad tfa', 'RAdam')
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    kind, _, variant = name.partition(":")
    if kind == "novograd":
        return _variant(variants.BY_NAME[variant])
    if not is_place(name):
        raise KeyError(name)
    return Optimizer(name.replace(":", ".").split(".")[-1], OWN, {}, _OWN_MIDDLE, place=name)


def is_place(name: str) -> bool:
    """Returns whether a name is the place of a class or a function.

    Example:
        >>> is_place("torch.optim.RAdam"), is_place("my_task.py:muon"), is_place("novograd:tfa")
        (True, True, False)
    """
    kind, colon, _ = name.partition(":")
    return kind != "novograd" and (bool(colon) or "." in name)


def _variant(variant: variants.Variant) -> Optimizer:
    usual = OPTIMIZERS["novograd:rows" if variant.decay == "decoupled" else "novograd"]
    return Optimizer(
        f"NovoGrad {variant.name}",
        "novograd",
        {"weight_decay": usual.settings["weight_decay"]},
        usual.middle,
        {} if variant.lr is None else {"tensorflow": variant.lr, "torch": variant.lr},
        variant.name,
    )


# From the palette of Okabe and Ito, which colour-blind people can distinguish, with markers of
# matplotlib for readers who do not see the colours.
_STYLES = {
    "novograd": ("#D55E00", "o"),
    "novograd:rows": ("#E69F00", "s"),
    "adamw": ("#0072B2", "D"),
    "nadamw": ("#CC79A7", "^"),
    "adam": ("#56B4E9", "v"),
    "sgd": ("#009E73", "P"),
}
_OTHERS = [("#999999", "X"), ("#A6761D", "*"), ("#7570B3", "<"), ("#66A61E", ">"), ("#8C6D31", "h")]


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Returns a colour and a marker for each optimizer.

    Example:
        >>> styles(["sgd", "torch.optim.RAdam"])
        {'sgd': ('#009E73', 'P'), 'torch.optim.RAdam': ('#999999', 'X')}
    """
    names = list(names)
    others = [name for name in names if name not in _STYLES]
    return {
        name: _STYLES[name] if name in _STYLES else _OTHERS[others.index(name) % len(_OTHERS)]
        for name in names
    }


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
