"""Checks a state dict, and loads the entries that the base class does not load correctly."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from novograd import variants
from novograd.torch import sharding
from novograd.torch.choice import require_kernels
from novograd.torch.groups import Group, Member
from novograd.torch.layout import ParameterLayout
from novograd.torch.moments import moment_dtype
from novograd.torch.norms import compute_dtype
from novograd.torch.options import OPTIONS, check_options, with_new
from novograd.torch.state import SECOND_MOMENTS, dtype_problem, match_dtypes, new_state


def check_state_dict(
    state_dict: dict[str, Any], groups: list[Group], layout: Callable[[Member], ParameterLayout]
) -> None:
    """Checks that a state dict is from NovoGrad and fits the parameters.

    The base class checks the number of groups, and the number of parameters in each group.

    Args:
        state_dict: The state dict.
        groups: The groups that the state dict will be loaded into.
        layout: Returns the layout of a parameter of these groups.

    Raises:
        TypeError: If an option has a wrong type.
        ValueError: If the state dict is from another optimizer, or does not fit the parameters.
        RuntimeError: If a group has ``fused=True`` and the kernels are not installed.

    Example:
        >>> state_dict = torch.optim.SGD([torch.zeros(2)]).state_dict()
        >>> check_state_dict(state_dict, [], len)
        Traceback (most recent call last):
            ...
        ValueError: state_dict is not from NovoGrad: param_groups[0] has no 'betas'; from another \
optimizer, such as AdamW, load only the weights
    """
    for number, group in enumerate(state_dict["param_groups"]):
        _check_group(number, group)
    for theirs, ours in zip(state_dict["param_groups"], groups, strict=False):
        require_kernels(theirs["fused"], ours["params"])
    for theirs, key, member in _paired(state_dict, groups):
        state = state_dict["state"].get(key, {})
        if state and not is_lazy(member.param):
            new = new_state(theirs, member.param, layout(member))
            if "step" not in state and not variants.get(theirs["variant"]).counts:
                new.pop("step", None)  # it is only for random bits, and begins with 0
            _check_state(key, state, new)
            found = dtype_problem(state["exp_avg"], member.group, member.param)
            if found:
                raise ValueError(f"state_dict does not fit parameter {key!r}: {found}")


def with_moment_dtypes(state_dict: dict[str, Any], groups: list[Group]) -> dict[str, Any]:
    """Returns a state dict whose groups have the ``moment_dtype`` of the given groups.

    Example:
        >>> given = {"state": {}, "param_groups": [{"lr": 0.1}]}
        >>> with_moment_dtypes(given, [{"moment_dtype": torch.int8}])["param_groups"]
        [{'lr': 0.1, 'moment_dtype': torch.int8}]
    """
    pairs = list(zip(state_dict["param_groups"], groups, strict=False))
    if len(pairs) < len(state_dict["param_groups"]):
        return state_dict  # the base class raises an error
    own = [theirs | {"moment_dtype": ours["moment_dtype"]} for theirs, ours in pairs]
    return state_dict | {"param_groups": own}


def restore(
    states: dict[Tensor, Any],
    state_dict: dict[str, Any],
    groups: list[Group],
    layout: Callable[[Member], ParameterLayout],
) -> None:
    """Loads the state again that the base class casts to the weights' dtype.

    Warns if momentum buffers have another dtype than in the state dict.

    Args:
        states: The state of the optimizer, after the base class has loaded it.
        state_dict: The state dict, with its own ``moment_dtype``.
        groups: The groups that the state dict was loaded into.
        layout: Returns the layout of a parameter of these groups.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(2, dtype=torch.bfloat16)
        >>> states = {w: {"exp_avg": w, "exp_avg_sq": torch.tensor(1.0, dtype=torch.bfloat16)}}
        >>> given = {0: {"exp_avg": w, "exp_avg_sq": torch.tensor(1.001)}}
        >>> state_dict = {"state": given, "param_groups": [{"params": [0], "variant": "nvidia"}]}
        >>> groups = [{"params": [w], "variant": "nvidia", "moment_dtype": None}]
        >>> restore(states, state_dict, groups, lambda member: layout_of(None, None, w))
        >>> states[w]["exp_avg_sq"]
        tensor(1.0010)
    """
    converted: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
    for theirs, key, member in _paired(state_dict, groups):
        param, given = member.param, state_dict["state"].get(key, {})
        if not given:
            continue
        mine, group = states[param], groups[member.number]
        for name in SECOND_MOMENTS:
            if name in given:
                mine[name] = given[name].to(param.device, compute_dtype(param.dtype))
        # The base class has cast a buffer in any other dtype than the weights'.
        before, after = moment_dtype(theirs, param), moment_dtype(group, param)
        if before != param.dtype or after != param.dtype:
            mine["exp_avg"] = given["exp_avg"].to(param.device)
        if "exp_avg_scale" in given:
            mine["exp_avg_scale"] = given["exp_avg_scale"].to(param.device, torch.float32)
        match_dtypes(mine, group, param, layout(member._replace(group=group)))
        if before != after:
            converted[given["exp_avg"].dtype, after] += 1
    for (before, after), count in converted.items():
        warnings.warn(
            f"NovoGrad converted {count} momentum buffer{'s' * (count > 1)} of the state dict "
            f"from {before} to {after}: the optimizer keeps its own moment_dtype",
            stacklevel=2,
        )


def _check_group(number: int, group: Group) -> None:
    """Raises ValueError if a group of a state dict is not from NovoGrad."""
    for name, option in OPTIONS.items():
        if name not in group and not option.is_new:
            instead = (
                "`novograd convert` reads state dicts of other NovoGrads"
                if "grad_averaging" in group
                else "from another optimizer, such as AdamW, load only the weights"
            )
            raise ValueError(
                f"state_dict is not from NovoGrad: param_groups[{number}] has no {name!r}; "
                f"{instead}"
            )
    check_options(with_new(group))


def _check_state(key: Any, state: dict[str, Any], new: dict[str, Tensor]) -> None:
    """Raises ValueError if the state of a parameter does not match a new state."""
    for name, like in new.items():
        if name not in state:
            raise ValueError(f"state_dict is not from NovoGrad: no {name!r} for parameter {key!r}")
        value = state[name]
        if name == "step" and isinstance(value, Real):
            continue
        if value.shape != like.shape:
            raise ValueError(
                f"state_dict does not fit: {name!r} of parameter {key!r} must have "
                f"shape {tuple(like.shape)}, got {tuple(value.shape)}"
            )
        if not sharding.is_alike(value, like):
            raise ValueError(
                f"state_dict does not fit: {name!r} of parameter {key!r} is not sharded "
                "like the parameter; load it with torch.distributed.checkpoint"
            )


def _paired(state_dict: dict[str, Any], groups: list[Group]) -> Iterator[tuple[Group, Any, Member]]:
    """Pairs the parameters of a state dict with our parameters, by position like the base class.

    Yields a group of the state dict, a key in this group, and our parameter, as a member of a group
    with the variant and the ``moment_dtype`` of the state dict.
    """
    for number, (theirs, ours) in enumerate(zip(state_dict["param_groups"], groups, strict=False)):
        # If the numbers of parameters differ, the base class raises an error.
        pairs = zip(theirs["params"], ours["params"], strict=False)
        loaded = ours | {name: theirs.get(name) for name in ("variant", "moment_dtype")}
        for index, (key, param) in enumerate(pairs):
            yield theirs, key, Member(param, loaded, number, index)
