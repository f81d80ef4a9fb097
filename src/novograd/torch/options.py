"""The options of a parameter group, and their checks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor

from novograd import variants
from novograd.hyperparameters import check_flag, check_number
from novograd.layers import check_layers
from novograd.variants import Variant


class Options(TypedDict):
    """The hyperparameters of a step, with the names that a parameter group uses."""

    lr: float | Tensor
    betas: tuple[float | Tensor, float | Tensor]
    eps: float
    weight_decay: float | Tensor
    grad_averaging: bool
    nesterov: bool
    maximize: bool
    skip_nonfinite: bool
    stochastic_rounding: bool
    variant: str | Variant


MOMENT_DTYPES = (torch.int8, torch.bfloat16)
"""The dtypes that a momentum buffer may have instead of the dtype of its weights."""


def changed(options: Options, **changes: Any) -> Options:
    """Returns a copy of hyperparameters with changes.

    Example:
        >>> import torch
        >>> from novograd.torch import NovoGrad
        >>> changed(NovoGrad([torch.zeros(1)]).param_groups[0], lr=0.5)["lr"]
        0.5
    """
    return cast(Options, options | changes)


def number_on(device: torch.device, value: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a number as a tensor on a device.

    Unlike ``torch.as_tensor``, the host does not wait until a Python number is on the device.

    Example:
        >>> number_on(torch.device("cpu"), 0.5, torch.float32)
        tensor(0.5000)
    """
    if isinstance(value, Tensor):
        return value.to(device, dtype)
    return torch.full((), value, dtype=dtype, device=device)


class Option(NamedTuple):
    """An option of a parameter group.

    Attributes:
        check: A function of the name and the value that raises TypeError or ValueError.
        default: The default, if it does not depend on the variant.
        is_new: Whether state dicts of earlier versions lack the option.
    """

    check: Callable[[str, Any], Any]
    default: Any = None
    is_new: bool = False


def _check_lr(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element, got shape {tuple(value.shape)}")
        value = value.item()
    check_number(name, value)


def _check_betas(name: str, value: Any) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {value!r}")
    for number, beta in enumerate(value):
        check_number(f"{name}[{number}]", beta, below=1)


def _check_choice(name: str, value: Any) -> None:
    if value is not None:
        check_flag(name, value)


def _check_moment_dtype(name: str, value: Any) -> None:
    if value is not None and value not in MOMENT_DTYPES:
        allowed = ", ".join(map(str, MOMENT_DTYPES))
        raise ValueError(f"{name} must be one of {allowed} or None, got {value!r}")


OPTIONS: dict[str, Option] = {
    "lr": Option(_check_lr),
    "betas": Option(_check_betas),
    "eps": Option(check_number),
    "weight_decay": Option(check_number, 0.0),
    "grad_averaging": Option(check_flag),
    "nesterov": Option(check_flag),
    "maximize": Option(check_flag, False),
    "skip_nonfinite": Option(check_flag, False),
    "variant": Option(lambda _, value: variants.get(value), "documented"),
    "stochastic_rounding": Option(check_flag, False, is_new=True),
    "moment_dtype": Option(_check_moment_dtype, None, is_new=True),
    "foreach": Option(_check_choice),
    "fused": Option(_check_choice),
    "capturable": Option(check_flag, False),
}
"""All options that state dicts hold. State dicts do not hold layers, so layers are not here."""


def check_options(options: dict[str, Any]) -> None:
    """Checks the options of a parameter group, and the layers if the group has layers.

    Raises:
        TypeError: If an option has a wrong type.
        ValueError: If a number is out of range.
        RuntimeError: If the options demand two backends.

    Example:
        >>> import torch
        >>> from novograd.torch import NovoGrad
        >>> check_options(NovoGrad([torch.zeros(1)]).defaults | {"eps": -1.0})
        Traceback (most recent call last):
            ...
        ValueError: eps must be in [0, inf), got -1.0
    """
    for name, option in OPTIONS.items():
        option.check(name, options[name])
    check_layers("layers", options.get("layers"))
    if options["fused"] and options["foreach"]:
        raise RuntimeError("fused and foreach cannot be True together")


def with_new(group: dict[str, Any]) -> dict[str, Any]:
    """Adds the options of newer versions, with their defaults, to a group of a state dict.

    Example:
        >>> with_new({"lr": 0.1})
        {'stochastic_rounding': False, 'moment_dtype': None, 'lr': 0.1}
    """
    return {name: option.default for name, option in OPTIONS.items() if option.is_new} | group
