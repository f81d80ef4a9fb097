"""Parameter groups for ``torch.optim``."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

# _NormBase covers all batch and instance norms. torch advises against weight decay for PReLU.
UNDECAYED: tuple[type[nn.Module], ...] = (
    _NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.PReLU,
)


def no_decay(
    module: nn.Module,
    weight_decay: float,
    *,
    modules: tuple[type[nn.Module], ...] = UNDECAYED,
    names: Iterable[str] = ("bias*", "*.bias*", "*_bias"),
) -> list[dict[str, Any]]:
    """Splits a model's parameters into a group with weight decay and one without.

    Args:
        module: The model.
        weight_decay: Weight decay of the first group.
        modules: Types of submodules whose own parameters get no decay; torch's norms and
            ``PReLU`` by default.
        names: Patterns for the full names of other parameters that get no decay, in the syntax of
            ``fnmatch``; biases by default.

    Returns:
        Two parameter groups of named parameters, for any torch optimizer. The parameters of the
        first group decay; the second group has a weight decay of 0. Either group may be empty.
        Shared parameters appear once.

    Raises:
        TypeError: If ``names`` is a single string.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> decayed, others = no_decay(model, 0.01)
        >>> [name for name, _ in decayed["params"]], [name for name, _ in others["params"]]
        (['0.weight'], ['0.bias', '1.weight', '1.bias'])
    """
    if isinstance(names, str):
        raise TypeError(f"names must be a collection of patterns, got the string {names!r}")
    patterns = tuple(names)
    undecayed = {
        id(param)
        for submodule in module.modules()
        if isinstance(submodule, modules)
        for param in submodule.parameters(recurse=False)
    }
    groups: dict[bool, list[tuple[str, Tensor]]] = {True: [], False: []}
    for name, param in module.named_parameters():
        matches = any(fnmatchcase(name, pattern) for pattern in patterns)
        groups[id(param) not in undecayed and not matches].append((name, param))
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
