"""Files of ``torch.save``: those of ``novograd.torch`` and of published NovoGrads for PyTorch.

They are read with ``weights_only=True``, so that nothing in them is executed.
"""

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from novograd import variants
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    completed,
)
from novograd.variants import Variant

_OPTIMIZER = ("optimizer", "optimizer_state_dict", "optimizer_states")
_WEIGHTS = ("model", "model_state_dict", "state_dict")
_WANTED = ("lr", "betas", "eps", "weight_decay", "grad_averaging")
# Names of moment, v and the maximum of v in the state of a parameter.
_KEYS = {"pytorch-optimizer": ("moments", "grads_ema", "")}
_USUAL_KEYS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

# A variant of one's own is a record in the group: plain data, and the only class allowed. For good,
# as novograd.torch does too: the end of a `with safe_globals` would take that away as well.
torch.serialization.add_safe_globals([Variant])


def read(
    path: Path, kind: str, variant: Variant | None = None
) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    """Reads a file.

    Args:
        path: The file.
        kind: Whose state it is: "torch" for that of ``novograd.torch``, or "timm", "monai", "nemo",
            "torch-optimizer", "pytorch-optimizer", "apex".
        variant: The variant where the file does not say it, which is for apex.

    Returns:
        The checkpoint, and the weights by name if the file holds them.
    """
    content = _load(path)
    state_dict = _state_dict(content)
    found: set[Variant] = set()
    entries: dict[str, Entry] = {}
    groups = []
    for number, group in enumerate(state_dict["param_groups"]):
        where = f"param_groups[{number}]"
        found.add(_variant(kind, group, where, variant))
        if len(found) > 1:
            both = " and ".join(sorted(repr(one.name) for one in found))
            raise CheckpointError(f"{where} is of another variant than those before: {both}")
        names = tuple(group.get("param_names") or map(str, group["params"]))
        states = {
            name: state_dict["state"][index]
            for name, index in zip(names, group["params"], strict=True)
            if state_dict["state"].get(index)
        }
        read_entries = _entries_of_apex if kind == "apex" else _entries
        entries |= read_entries(kind, group, where, states)
        groups.append(Group(names, _hyperparameters(group)))
    (only,) = found
    return Checkpoint(entries, only, tuple(groups)), _weights(content)


def write(checkpoint: Checkpoint) -> bytes:
    """Returns the content of a file that ``torch.load`` reads, of the state dict that loads it.

    With weights it holds ``{"optimizer": state_dict, "model": weights}``.
    """
    indices = {name: index for index, name in enumerate(checkpoint.names)}
    variant = checkpoint.variant
    config = variants.as_config(variant)
    state = {}
    for name, entry in checkpoint.entries.items():
        state[indices[name]] = {"exp_avg": _tensor(entry.moment), "exp_avg_sq": _tensor(entry.v)}
        if entry.v_max is not None:
            state[indices[name]]["max_exp_avg_sq"] = _tensor(entry.v_max)
        if variant.counts:
            state[indices[name]]["step"] = torch.tensor(float(entry.step or 0))
    groups = []
    for group in checkpoint.groups:
        known = completed(group.hyperparameters, variant)
        groups.append(
            {
                "lr": known.lr,
                "betas": (known.beta1, known.beta2),
                "eps": known.epsilon,
                "weight_decay": known.weight_decay,
                "grad_averaging": known.grad_averaging,
                "variant": config if isinstance(config, str) else variant,
                "nesterov": known.nesterov,
                "maximize": False,
                "skip_nonfinite": False,
                "stochastic_rounding": False,
                "foreach": None,
                "fused": None,
                "capturable": False,
                "params": [indices[name] for name in group.names],
            }
        )
        if any(name != str(indices[name]) for name in group.names):
            groups[-1]["param_names"] = list(group.names)
    content: dict[str, Any] = {"state": state, "param_groups": groups}
    weights = {
        n: _tensor(x.weights) for n, x in checkpoint.entries.items() if x.weights is not None
    }
    if weights:
        content = {"optimizer": content, "model": weights}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# -- reading -------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        other = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.IGNORECASE)
        if other is None:
            raise _damaged(error) from error
        raise CheckpointError(
            f"beside tensors and plain data it holds {other[1]}, which was not executed; save the "
            "state dicts by themselves"
        ) from error
    except OSError:
        raise
    except Exception as error:  # of any kind, since the file may hold anything
        raise _damaged(error) from error


def _damaged(error: Exception) -> CheckpointError:
    # Without torch's advice to load it with weights_only=False.
    said = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    line = next(filter(None, map(str.strip, said.splitlines())), type(error).__name__)
    return CheckpointError(f"it is damaged, or no file of torch.save: {line}")


def _state_dict(content: Any) -> dict[str, Any]:
    """Returns the state dict of the optimizer in a file."""
    found = content
    if isinstance(content, dict) and "param_groups" not in content:
        found = next((content[key] for key in _OPTIMIZER if key in content), None)
        if isinstance(found, (list, tuple)):  # of Lightning
            if len(found) != 1:
                raise CheckpointError(f"it holds the states of {len(found)} optimizers, not of one")
            found = found[0]
    if not isinstance(found, dict) or not {"state", "param_groups"} <= set(found):
        has = f"; it has {', '.join(map(str, content))}" if isinstance(content, dict) else ""
        raise CheckpointError(
            f"it is no state dict of an optimizer, and has none under {', '.join(_OPTIMIZER)}{has}"
        )
    return found


def _weights(content: Any) -> Mapping[str, Any] | None:
    found = next((content[key] for key in _WEIGHTS if key in content), None)
    if not isinstance(found, Mapping):
        return None
    return {name: _array(x) for name, x in found.items() if isinstance(x, torch.Tensor)}


def _hyperparameters(group: dict[str, Any]) -> Hyperparameters:
    beta1, beta2 = map(float, group["betas"])
    return Hyperparameters(
        lr=float(group["lr"]),
        beta1=beta1,
        beta2=beta2,
        epsilon=float(group["eps"]),
        weight_decay=float(group["weight_decay"]),
        grad_averaging=bool(group["grad_averaging"]),
        nesterov=bool(group.get("nesterov", False)),
    )


def _variant(kind: str, group: dict[str, Any], where: str, given: Variant | None) -> Variant:
    """Returns the variant of a group, having checked that its options are of the kind."""
    for option in (*_WANTED, *(("norm_type",) if kind == "apex" else ())):
        if option not in group:
            raise CheckpointError(f"{where} has no {option!r}: it is no state of {kind}'s NovoGrad")
    if ("skip_nonfinite" in group) != (kind == "torch"):
        whose = "novograd.torch" if kind != "torch" else "another library"
        raise CheckpointError(f"{where} is of {whose}, and not of {kind}")
    if group.get("maximize"):
        raise CheckpointError(f"{where} has maximize=True, which only PyTorch knows")
    if kind == "torch":
        return variants.get(group.get("variant", "documented"))
    if kind == "apex":
        return _variant_of_apex(group, where, given)
    if kind == "pytorch-optimizer":
        return _variant_of_pytorch_optimizer(group, where)
    amsgrad = "nvidia-amsgrad" if group.get("amsgrad") else "nvidia"
    if not group.get("decoupled_decay"):
        return variants.get(amsgrad)
    _refuse(group, where, "corrected_weight_decay", group["weight_decay"] != 0)
    decoupled = variants.get("nvidia-decoupled")
    if group.get("amsgrad"):
        return replace(decoupled, name="nvidia-decoupled-amsgrad", amsgrad=True)
    return decoupled


def _variant_of_pytorch_optimizer(group: dict[str, Any], where: str) -> Variant:
    # The option came with the release that changed the rule.
    name = "pytorch-optimizer" if "foreach" in group else "pytorch-optimizer-3"
    _refuse(group, where, "adam_debias")
    if not group.get("weight_decouple"):
        return variants.get(name)
    _refuse(group, where, "fixed_decay", group["weight_decay"] != 0)
    return replace(variants.get(name), name=f"{name}-decoupled", decay="decoupled")


def _variant_of_apex(group: dict[str, Any], where: str, given: Variant | None) -> Variant:
    inf = group["norm_type"] == 0
    allowed = ("apex-inf", "apex-inside-inf") if inf else ("apex", "apex-inside")
    if given is None or given.name not in allowed:
        raise CheckpointError(
            "apex does not save whether reg_inside_moment was set, and norm_type is "
            f"{group['norm_type']}: give variant {allowed[0]!r} if it was not (its default), or "
            f"{allowed[1]!r} if it was; got {None if given is None else given.name!r}"
        )
    _refuse(group, where, "init_zero")
    if group["bias_correction"]:
        return given
    return replace(given, name=f"{given.name}-uncorrected", bias_correction=None)


def _refuse(group: dict[str, Any], where: str, option: str, matters: bool = True) -> None:
    if group.get(option) and matters:
        raise CheckpointError(f"{where} has {option}=True, which is no variant of NovoGrad here")


def _entries(
    kind: str, group: dict[str, Any], where: str, states: Mapping[str, dict[str, Any]]
) -> dict[str, Entry]:
    """Returns the entries of a group."""
    moment, v, v_max = _KEYS.get(kind, _USUAL_KEYS)
    entries = {}
    for name, state in states.items():
        for key in (moment, v):
            if not isinstance(state.get(key), torch.Tensor):
                raise CheckpointError(f"the state of {name!r} in {where} has no {key!r}")
        if kind != "torch" and state[v].ndim:
            raise CheckpointError(
                f"{v!r} of {name!r} in {where} has shape {tuple(state[v].shape)}; {kind}'s "
                "NovoGrad has one number for each weight"
            )
        maximum = state.get(v_max)
        step = state.get("step", group.get("step"))
        entries[name] = Entry(
            moment=_array(state[moment]),
            v=_array(state[v]),
            v_max=None if maximum is None else _array(maximum),
            step=None if step is None else int(step),
        )
    return entries


def _entries_of_apex(
    kind: str, group: dict[str, Any], where: str, states: Mapping[str, dict[str, Any]]
) -> dict[str, Entry]:
    """Returns the entries of a group whose norms are one array for each dtype.

    They are in the order of those parameters that had a gradient in the first step, which apex
    asserts to be as many in every later one. So they can be told apart if there are as many as
    parameters with state.
    """
    norms = group.get("exp_avg_sq")
    if not isinstance(norms, (list, tuple)) or len(norms) != 2 or "step" not in group:
        raise CheckpointError(f"{where} has no norms of {kind}, or no step: no step was taken")
    entries = {}
    for dtype, stored in zip((torch.float16, torch.float32), norms, strict=True):
        mine = [name for name, state in states.items() if state["exp_avg"].dtype == dtype]
        if len(mine) != stored.numel():
            raise CheckpointError(
                f"{where} has {stored.numel()} norms of {dtype} weights, but {len(mine)} such "
                "weights have a moment: which had no gradient at first cannot be known"
            )
        values = stored.double().numpy()
        # apex keeps norms; of l2 norms v is the square.
        values = values if group["norm_type"] == 0 else values**2
        for name, v in zip(mine, values, strict=True):
            moment = _array(states[name]["exp_avg"])
            entries[name] = Entry(moment, np.asarray(v, np.float32), step=int(group["step"]))
    if len(entries) != len(states):
        raise CheckpointError(f"{where} has moments that are neither float16 nor float32")
    return entries


# -- arrays --------------------------------------------------------------------------------------


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    array = np.array(array)  # writable
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
