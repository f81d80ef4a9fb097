"""Files of ``torch.save``, from ``novograd.torch`` and from published NovoGrads for PyTorch.

Nothing in a file is executed. Only plain data and tensors are read. A file may also contain objects
of any other class, such as the hyperparameters and callbacks of Lightning.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import torch

from novograd import layers, variants
from novograd.checkpoint import pickles
from novograd.checkpoint.loading import arguments, has_weights, remarks
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    at,
    completed,
    keys_of,
    plain,
    printable,
)
from novograd.checkpoint.pickles import Recorded
from novograd.quantized import scale_shape
from novograd.torch.moments import dequantised
from novograd.torch.options import OPTIONS
from novograd.variants import Variant

_OPTIMIZER = ("optimizer", "optimizer_state_dict", "optimizer_states")
_WEIGHTS = ("model", "model_state_dict", "state_dict", "net", "network")
_WANTED = ("lr", "betas", "eps", "weight_decay", "grad_averaging")
# Options that only our PyTorch NovoGrad has, with their defaults.
_FLAGS = {
    name: OPTIONS[name].default for name in OPTIONS if name not in (*_WANTED, "nesterov", "variant")
}
# All options of these optimizers in a group. Other items belong, for example, to schedulers.
_OPTIONS = {
    *(*_WANTED, *_FLAGS, "params", "param_names", "step", "nesterov", "variant", "layers"),
    *("amsgrad", "decoupled_decay", "corrected_weight_decay", "max_lr_snapshot"),
    *("weight_decouple", "fixed_decay", "adam_debias", "differentiable"),
    *("bias_correction", "norm_type", "init_zero", "exp_avg_sq"),
}
# The first bytes of an archive, and the first pickle of a file as before PyTorch 1.6.
_ARCHIVE, _MAGIC = b"PK\x03\x04", 0x1950A86A20F9469CFC6C
_DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in (
        *(("Double", torch.float64), ("Float", torch.float32), ("Half", torch.float16)),
        *(("BFloat16", torch.bfloat16), ("Long", torch.int64), ("Int", torch.int32)),
        *(("Short", torch.int16), ("Char", torch.int8), ("Byte", torch.uint8)),
        *(("Bool", torch.bool), ("ComplexDouble", torch.complex128)),
        ("ComplexFloat", torch.complex64),
    )
}
_PLAIN_TENSORS = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
# Names of the momentum buffer, v and the maximum of v in the state of a parameter.
_KEYS = {"pytorch-optimizer": ("moments", "grads_ema", "")}
_USUAL_KEYS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

Storage = Callable[[Any], bytearray]
"""Returns the bytes of the storage with this key."""


def read(
    path: Path,
    kind: str,
    variant: Variant | None = None,
    *,
    key: str | None = None,
    weights: bool = False,
) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    """Reads a file.

    Args:
        path: The file.
        kind: The optimizer that wrote the state: "torch" for ``novograd.torch``, or "timm",
            "monai", "nemo", "torch-optimizer", "pytorch-optimizer", "apex".
        variant: The variant for "apex", whose files do not name it.
        key: The key of the state, if it is not a usual one.
        weights: Whether to read the weights.

    Returns:
        The checkpoint, and the weights by name, or None if they were not requested.
    """
    content = _load(path)
    state_dict = _state_dict(content, key)
    found: set[Variant] = set()
    entries: dict[str, Entry] = {}
    groups = []
    for number, group in enumerate(state_dict["param_groups"]):
        where = f"param_groups[{number}]"
        found.add(_variant(kind, group, where, variant))
        if len(found) > 1:
            both = " and ".join(sorted(repr(one.name) for one in found))
            raise CheckpointError(f"{where} is of another variant than the groups before: {both}")
        names = tuple(group.get("param_names") or map(str, group["params"]))
        states = {
            name: state_dict["state"][index]
            for name, index in zip(names, group["params"], strict=True)
            if state_dict["state"].get(index)
        }
        read_entries = _entries_of_apex if kind == "apex" else _entries
        entries |= read_entries(kind, group, where, states)
        groups.append(Group(names, _hyperparameters(group), *_others(kind, group)))
    (only,) = found
    return Checkpoint(entries, only, tuple(groups)), _weights(content) if weights else None


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a state dict of the optimizer, for ``torch.load``.

    With weights, the file contains ``{"optimizer": state_dict, "model": weights}``.
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
            state[indices[name]]["step"] = torch.tensor(float(entry.step or 0), device="cpu")
    groups = []
    for group in checkpoint.groups:
        known = completed(group.hyperparameters, variant)
        groups.append(
            {
                **_FLAGS,
                **group.others,
                "lr": known.lr,
                "betas": (known.beta1, known.beta2),
                "eps": known.epsilon,
                "weight_decay": known.weight_decay,
                "grad_averaging": known.grad_averaging,
                "variant": config if isinstance(config, str) else variant,
                "nesterov": known.nesterov,
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
    path.write_bytes(buffer.getbuffer())


def how_to_load(checkpoint: Checkpoint, path: str) -> str:
    """Returns the lines of Python that load a file."""
    # The file has all options, but without a default the constructor needs lr.
    needed = ("variant", "layers") if checkpoint.variant.lr else ("lr", "variant", "layers")
    params = "model.parameters()" if checkpoint.names[0] == "0" else "model.named_parameters()"
    params = "groups" if len(checkpoint.groups) > 1 else params
    given = ", ".join(filter(None, (params, arguments(checkpoint, {}, needed))))
    saved = f"torch.load({path!r}, weights_only=True)"
    lines = [f"optimizer = novograd.torch.NovoGrad({given}){remarks(checkpoint, grouped=True)}"]
    if has_weights(checkpoint):
        lines.append(f"optimizer.load_state_dict({saved}['optimizer'])")
        lines.append(f"model.load_state_dict({saved}['model'])")
    else:
        lines.append(f"optimizer.load_state_dict({saved})")
    return "\n".join(lines)


# -- reading -------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    """Returns the content of a file; its tensors are read when they are accessed."""
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) == _ARCHIVE:
            content, storage = _load_archive(path)
        else:
            file.seek(0)
            content, storage = _load_stream(file, path.stat().st_size)
    storage = cache(storage)  # tensors may share one
    return pickles.made(content, "", lambda record, where: _made(record, where, storage))


def _load_archive(path: Path) -> tuple[Any, Storage]:
    """Returns the content of an archive, and a function that reads its storages."""
    try:
        archive = torch._C.PyTorchFileReader(str(path))
        data = archive.get_record("data.pkl")
    except RuntimeError as error:
        line = str(error).partition("\n")[0]  # without the C++ trace
        raise CheckpointError(f"it is damaged, or not a file of torch.save: {line}") from error
    records = archive.get_all_records()
    if "byteorder" in records and archive.get_record("byteorder") != b"little":
        raise CheckpointError("its tensors are big-endian, which is not supported")
    return pickles.load(io.BytesIO(data)), lambda key: bytearray(archive.get_record(f"data/{key}"))


def _load_stream(file: BinaryIO, size: int) -> tuple[Any, Storage]:
    """Returns the content of a file as before PyTorch 1.6, and a function for its storages."""
    if pickles.load(file) != _MAGIC:
        raise CheckpointError("it is damaged, or not a file of torch.save")
    _version, _system = pickles.load(file), pickles.load(file)
    stored: list[Recorded] = []
    content = pickles.load(file, stored)
    types = {record.args[0][2]: record.args[0][1] for record in stored}
    found = {}
    for key in pickles.load(file):
        length = int.from_bytes(file.read(8), "little") * _dtype(types[key]).itemsize
        if length > size - file.tell():
            raise CheckpointError("it is damaged: it ends within a tensor")
        found[key] = bytearray(file.read(length))
    return content, found.__getitem__


def _made(record: Recorded, where: str, storage: Storage) -> Any:
    """Makes a tensor, or another value that a state dict may contain; else raises LookupError."""
    args = record.args
    match record.path:
        case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor":
            try:
                return _stored(*args[:4], *args[6:], storage=storage)
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointError(f"{where} is damaged: {error!r}") from error
        case (
            "torch._utils._rebuild_parameter"
            | "torch._utils._rebuild_parameter_with_state"
            | "torch._utils._rebuild_device_tensor_from_cpu_tensor"
        ):
            return _made(args[0], where, storage)
        case "torch._tensor._rebuild_from_type_v2" if args[1].path in _PLAIN_TENSORS:
            return _made(args[0](*args[2]), where, storage)
        case "torch.Size":
            return tuple(*args)
        case "novograd.variants.Variant":
            fields = dict(record.state)
            if isinstance(fields.get("layers"), Recorded):
                fields["layers"] = layers.as_config(_made(fields["layers"], where, storage))
            return variants.from_config(plain(fields))
        case (
            "novograd.layers.Rows"
            | "novograd.layers.Split"
            | "novograd.layers.Stacked"
            | "novograd.layers.Whole"
        ):
            return layers.KINDS[record.path.rpartition(".")[2]](**plain(record.state or {}))
        case "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar":
            return _number(*args)
    raise LookupError(record.path)


def _stored(
    record: Recorded,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    metadata: Mapping[str, bool] | None = None,
    *,
    storage: Storage,
) -> torch.Tensor:
    """Returns a tensor whose storage is outside the pickle."""
    _, kind, key, _device, _count, *views = record.args[0]
    if any(views):
        raise ValueError("it is a view of another storage, as before PyTorch 0.4")
    dtype, content = _dtype(kind), storage(key)
    if content:
        whole = torch.frombuffer(content, dtype=dtype)
    else:
        whole = torch.empty(0, dtype=dtype, device="cpu")
    tensor = torch.as_strided(whole, size, stride, offset)
    tensor = tensor.conj() if metadata and metadata.get("conj") else tensor
    tensor = -tensor if metadata and metadata.get("neg") else tensor
    return tensor.resolve_conj()


def _dtype(kind: type[Recorded]) -> torch.dtype:
    """Returns the dtype of a storage class."""
    return _DTYPES[kind.path]


def _number(kind: Recorded, content: Recorded) -> Any:
    """Returns a number of NumPy; pickle protocol 2 stores its bytes as text."""
    data = content if isinstance(content, bytes) else content.args[0].encode("latin1")
    dtype = np.dtype(kind.args[0]).newbyteorder(kind.state[1])
    return np.frombuffer(data, dtype)[0].item()


def _state_dict(content: Any, key: str | None) -> Mapping[str, Any]:
    """Returns the state dict of the optimizer in a file."""
    found = content
    if key is not None:
        found = at(content, key)
    elif isinstance(content, Mapping) and "param_groups" not in content:
        found = next((content[key] for key in _OPTIMIZER if key in content), None)
    if isinstance(found, (list, tuple)):  # as in Lightning
        if len(found) != 1:
            raise CheckpointError(
                f"it has the states of {len(found)} optimizers: give the key of one (--key), such "
                f"as {key or 'optimizer_states'}.0"
            )
        found = found[0]
    if not isinstance(found, Mapping) or not {"state", "param_groups"} <= set(found):
        if key is not None:
            raise CheckpointError(f"{key!r} is not an optimizer's state dict{keys_of(found)}")
        raise CheckpointError(
            f"it is not an optimizer's state dict, and has none under {', '.join(_OPTIMIZER)}"
            f"{keys_of(content)}; if it has one under another key, give that key (--key)"
        )
    return found


def _weights(content: Any) -> Mapping[str, Any]:
    """Returns the weights in a file; they are read when they are accessed."""
    key = next((key for key in _WEIGHTS if key in content), None)
    if key is None:
        raise CheckpointError(
            f"it has no weights under {', '.join(_WEIGHTS)}{keys_of(content)}; save them under one "
            "of these keys, or convert only the state"
        )
    if not isinstance(content[key], Mapping):
        raise CheckpointError(f"{key!r} is not a dict of weights by name")
    return content[key]


def _others(kind: str, group: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns a group's items that are not options, and the names of items that cannot be kept.

    The first result also has the options that only our PyTorch NovoGrad has, unless they have their
    default values.
    """
    others, lost = {}, []
    for name in group:
        ours = kind == "torch" and name in _FLAGS
        if name in _OPTIONS and not ours:
            continue
        try:
            value = plain({name: group[name]})
        except CheckpointError:
            lost.append(printable(str(name)))
        else:
            if not ours or group[name] != _FLAGS[name]:
                others |= value
    return others, tuple(lost)


def _hyperparameters(group: Mapping[str, Any]) -> Hyperparameters:
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


def _variant(kind: str, group: Mapping[str, Any], where: str, given: Variant | None) -> Variant:
    """Returns the variant of a group, after checking that its options fit the kind."""
    for option in (*_WANTED, *(("norm_type",) if kind == "apex" else ())):
        if option not in group:
            raise CheckpointError(f"{where} has no {option!r}, so it is not of {kind}'s NovoGrad")
    if ("skip_nonfinite" in group) != (kind == "torch"):
        whose = "novograd.torch" if kind != "torch" else "another library"
        raise CheckpointError(f"{where} is of {whose}, not of {kind}")
    if group.get("maximize"):
        raise CheckpointError(f"{where} has maximize=True, which only PyTorch supports")
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


def _variant_of_pytorch_optimizer(group: Mapping[str, Any], where: str) -> Variant:
    # The release that changed the rule also added this option.
    name = "pytorch-optimizer" if "foreach" in group else "pytorch-optimizer-3"
    _refuse(group, where, "adam_debias")
    if not group.get("weight_decouple"):
        return variants.get(name)
    _refuse(group, where, "fixed_decay", group["weight_decay"] != 0)
    return replace(variants.get(name), name=f"{name}-decoupled", decay="decoupled")


def _variant_of_apex(group: Mapping[str, Any], where: str, given: Variant | None) -> Variant:
    inf = group["norm_type"] == 0
    allowed = ("apex-inf", "apex-inside-inf") if inf else ("apex", "apex-inside")
    if given is None or given.name not in allowed:
        raise CheckpointError(
            "apex does not save reg_inside_moment. Since norm_type is "
            f"{group['norm_type']}, give variant {allowed[0]!r} if reg_inside_moment was False "
            f"(the default), or {allowed[1]!r} if it was True; got "
            f"{None if given is None else given.name!r}"
        )
    _refuse(group, where, "init_zero")
    if group["bias_correction"]:
        return given
    return replace(given, name=f"{given.name}-uncorrected", bias_correction=None)


def _refuse(group: Mapping[str, Any], where: str, option: str, matters: bool = True) -> None:
    if group.get(option) and matters:
        raise CheckpointError(f"{where} has {option}=True, which no variant here has")


def _entries(
    kind: str, group: Mapping[str, Any], where: str, states: Mapping[str, Mapping[str, Any]]
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
            moment=_array(_wide(state, moment, f"the state of {name!r} in {where}")),
            v=_array(state[v]),
            v_max=None if maximum is None else _array(maximum),
            step=None if step is None else int(step),
        )
    return entries


def _wide(state: Mapping[str, Any], key: str, where: str) -> torch.Tensor:
    """Returns a momentum buffer; one in 8 bits in float32, or float64 if ``v`` is."""
    moment, scales = state[key], state.get("exp_avg_scale")
    if moment.dtype != torch.int8 or not isinstance(scales, torch.Tensor):
        return moment
    expected = scale_shape(moment.shape) if moment.ndim > 1 else ()
    if tuple(scales.shape) != expected:
        raise CheckpointError(
            f"{where} has scales of shape {tuple(scales.shape)}, and must have {expected}"
        )
    return dequantised(moment, scales, state["exp_avg_sq"].dtype)


def _entries_of_apex(
    kind: str, group: Mapping[str, Any], where: str, states: Mapping[str, Mapping[str, Any]]
) -> dict[str, Entry]:
    """Returns the entries of a group of apex, which has one array of norms for each dtype.

    The norms are in the order of the parameters that had a gradient in the first step. apex asserts
    that later steps have as many. So the norms can be assigned if there are as many norms as
    parameters with state.
    """
    norms = group.get("exp_avg_sq")
    if not isinstance(norms, (list, tuple)) or len(norms) != 2 or "step" not in group:
        raise CheckpointError(f"{where} has no norms or no step, so {kind} has not taken a step")
    entries = {}
    for dtype, stored in zip((torch.float16, torch.float32), norms, strict=True):
        mine = [name for name, state in states.items() if state["exp_avg"].dtype == dtype]
        if len(mine) != stored.numel():
            raise CheckpointError(
                f"{where} has {stored.numel()} norms of {dtype} weights, but {len(mine)} such "
                "weights have a momentum buffer: the file does not tell which norm is whose"
            )
        values = stored.double().numpy()
        # apex stores norms; v is the square of an l2 norm.
        values = values if group["norm_type"] == 0 else values**2
        for name, v in zip(mine, values, strict=True):
            moment = _array(states[name]["exp_avg"])
            entries[name] = Entry(moment, np.asarray(v, np.float32), step=int(group["step"]))
    if len(entries) != len(states):
        raise CheckpointError(f"{where} has momentum buffers that are neither float16 nor float32")
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
