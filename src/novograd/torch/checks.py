"""Checks of a parameter group."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from novograd import variants
from novograd.hyperparameters import check_flag, check_number
from novograd.layers import check_layers


def check_options(options: dict[str, Any]) -> None:
    """Checks the options of a parameter group.

    Raises:
        TypeError: If one has a wrong type.
        ValueError: If a number is out of range.
        RuntimeError: If they ask for two implementations.

    Example:
        >>> import torch
        >>> from novograd.torch import NovoGrad
        >>> check_options(NovoGrad([torch.zeros(1)]).defaults | {"eps": -1.0})
        Traceback (most recent call last):
            ...
        ValueError: eps must be in [0, inf), got -1.0
    """
    lr = options["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
        lr = lr.item()
    check_number("lr", lr)
    betas = options["betas"]
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
    for number, beta in enumerate(betas):
        check_number(f"betas[{number}]", beta, below=1)
    check_number("eps", options["eps"])
    check_number("weight_decay", options["weight_decay"])
    flags = "grad_averaging", "nesterov", "maximize", "skip_nonfinite", "capturable"
    for name in (*flags, "stochastic_rounding"):
        check_flag(name, options[name])
    check_layers("layers", options.get("layers"))
    variants.get(options["variant"])
    for name in ("foreach", "fused"):
        if options[name] is not None:
            check_flag(name, options[name])
    if options["fused"] and options["foreach"]:
        raise RuntimeError("fused and foreach cannot be True together")
    if options["stochastic_rounding"] and (options["foreach"] or options["fused"] is False):
        raise RuntimeError("stochastic_rounding needs the kernels of fused=True")
