"""The neutral form of a checkpoint. Every conversion reads or writes it.

``moment`` is the momentum buffer as ``novograd.torch`` stores it for the variant: with positive
sign, so that a step subtracts it, and including the learning rate only if the variant's ``rate`` is
"moment".
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from novograd import variants
from novograd.variants import Variant

FORMAT, VERSION = "novograd-checkpoint", "1"

# Explains why a weight is not found, and how to give names.
_HOW_TO_NAME = """; the optimizer was made from parameters without names, so its state has numbers \
for them: give their names (--names). Where the model is, this line writes the file of names:
import json, pathlib; pathlib.Path("names.json").write_text(json.dumps([n for g in \
optimizer.param_groups for p in g["params"] for n, q in model.named_parameters() if q is p]))"""

_NORMS = ("float16", "bfloat16", "float32", "float64", "int32", "int64")
_WEIGHTS = (*_NORMS[:4], "complex64", "complex128")

Names = Mapping[str, str] | Sequence[str] | Callable[[str], str] | None


class CheckpointError(ValueError):
    """A checkpoint cannot be read, converted or written. The message names the entry."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The hyperparameters of a group of weights; None if the source does not contain one.

    Raises:
        CheckpointError: If a value is not a number.

    Example:
        >>> Hyperparameters(lr="fast")
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: lr must be a number, got 'fast'
    """

    lr: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    weight_decay: float | None = None
    grad_averaging: bool | None = None
    nesterov: bool | None = None

    def __post_init__(self) -> None:
        """Checks the values, since a file may contain anything."""
        for name, value in vars(self).items():
            if not isinstance(value, (bool, int, float, type(None))):
                raise CheckpointError(f"{name} must be a number, got {value!r}")


@dataclass(frozen=True)
class Entry:
    """The state of a weight.

    Attributes:
        moment: The momentum buffer, with the weight's shape and dtype.
        v: The second moment, in float32 or float64. Its shape is () or as in ``novograd.layers``.
            It averages the squared norm, or the norm itself if the variant's ``norm`` is "inf".
        v_max: With amsgrad, the largest ``v`` so far.
        step: The number of steps so far; None if the source does not count them.
        weights: The weight itself, if it was requested.
    """

    moment: np.ndarray
    v: np.ndarray
    v_max: np.ndarray | None = None
    step: int | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Group:
    """Weights that share hyperparameters, in order. Weights that were never trained have no entry.

    Attributes:
        names: The names of the weights.
        hyperparameters: The hyperparameters of the rule.
        others: Other plain data in a group of PyTorch, such as ``initial_lr`` of schedulers, which
            JSON can represent.
        lost: The names of items that are not plain data. Their values are not kept.
    """

    names: tuple[str, ...]
    hyperparameters: Hyperparameters = Hyperparameters()
    others: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The state of an optimizer of any framework.

    Attributes:
        entries: The state of each weight by its name; in the order of the groups.
        variant: The variant.
        groups: The weights in the order of the source.

    Raises:
        CheckpointError: If a name is not valid text or occurs twice, or an entry has shapes that do
            not fit each other, or a dtype that is not supported.

    Example:
        >>> entry = Entry(moment=np.zeros((2, 3), np.float32), v=np.float32(4), step=10)
        >>> checkpoint = Checkpoint({"w": entry}, variants.get("optax"), (Group(("w",)),))
        >>> checkpoint.step
        10
        >>> Checkpoint({"w": replace(entry, v=np.zeros(2))}, checkpoint.variant, checkpoint.groups)
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: v of 'w' has shape (2,), which does not fit a \
weight of shape (2, 3)
    """

    entries: Mapping[str, Entry]
    variant: Variant
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        """Checks the entries, sorts them, and converts ``v`` to float32 or float64."""
        names = self.names
        for name in (*names, self.variant.name):
            if not isinstance(name, str) or not _is_text(name):
                raise CheckpointError(f"{name!r} is not a valid name")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise CheckpointError(f"several weights have the name {repeated[0]!r}")
        unknown = set(self.entries) - set(names)
        if unknown:
            raise CheckpointError(f"the weight {min(unknown)!r} is in no group")
        entries = {
            n: _checked(n, self.entries[n], self.variant) for n in names if n in self.entries
        }
        if not entries:
            raise CheckpointError("no weight has a state: the optimizer has not taken a step")
        object.__setattr__(self, "entries", entries)

    @property
    def names(self) -> list[str]:
        """The names of all weights, in order, including those that were never trained."""
        return [name for group in self.groups for name in group.names]

    @property
    def step(self) -> int | None:
        """The largest number of steps of a weight; None if no weight has one."""
        return max((x.step for x in self.entries.values() if x.step is not None), default=None)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _checked(name: str, entry: Entry, variant: Variant) -> Entry:
    """Returns an entry with ``v`` in float32 or float64, or raises CheckpointError."""
    moment = np.asarray(entry.moment)
    for part in ("moment", "v", "v_max", "weights"):
        value = getattr(entry, part)
        allowed = _WEIGHTS if part in ("moment", "weights") else _NORMS
        if value is not None and np.asarray(value).dtype.name not in allowed:
            raise CheckpointError(
                f"{part} of {name!r} has dtype {np.asarray(value).dtype.name}, and must have one "
                f"of {', '.join(allowed)}"
            )
    if entry.step is not None and not 0 <= entry.step < 2**63:
        raise CheckpointError(f"step of {name!r} must be in [0, 2**63), got {entry.step}")
    v, v_max = (None if x is None else _wide(x) for x in (entry.v, entry.v_max))
    assert v is not None
    fits = v.ndim in (0, moment.ndim) and all(
        length <= max(whole, 1) for length, whole in zip(v.shape, moment.shape, strict=False)
    )
    if not fits:
        raise CheckpointError(
            f"v of {name!r} has shape {v.shape}, which does not fit a weight of shape "
            f"{moment.shape}"
        )
    if variant.amsgrad != (v_max is not None):
        has = "no" if v_max is None else "a"
        raise CheckpointError(
            f"{name!r} has {has} maximum of v, but the variant is {variant.name!r}"
        )
    if v_max is not None and v_max.shape != v.shape:
        raise CheckpointError(f"v_max of {name!r} has shape {v_max.shape}, but v has {v.shape}")
    weights = None if entry.weights is None else np.asarray(entry.weights)
    if weights is not None and weights.shape != moment.shape:
        raise CheckpointError(
            f"the weight {name!r} has shape {weights.shape}, but its moment has {moment.shape}"
        )
    return Entry(moment, v, v_max, entry.step, weights)


def _wide(v: Any) -> np.ndarray:
    """Returns a second moment in float32; float64 stays float64."""
    v = np.asarray(v)
    return v if v.dtype == np.float64 else v.astype(np.float32)


def renamed(checkpoint: Checkpoint, names: Names) -> Checkpoint:
    """Returns a checkpoint with other names.

    Args:
        checkpoint: The checkpoint.
        names: The new names: a mapping from old to new names, which also gives the order if it has
            all names; a sequence in the order of the checkpoint; or a function of the old name.

    Raises:
        CheckpointError: If ``names`` has an unknown name, or two weights would get one name.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> source = Checkpoint({"0": entry}, variants.DOCUMENTED, (Group(("0", "1")),))
        >>> renamed(source, {"1": "bias", "0": "kernel"}).groups[0].names
        ('bias', 'kernel')
    """
    if names is None:
        return checkpoint
    old = checkpoint.names
    new = new_names(old, names)
    if isinstance(names, Mapping) and len(names) == len(old):
        old = list(names)
    rank = {name: position for position, name in enumerate(old)}
    groups = tuple(
        replace(group, names=tuple(new[n] for n in sorted(group.names, key=rank.__getitem__)))
        for group in checkpoint.groups
    )
    entries = {new[name]: entry for name, entry in checkpoint.entries.items()}
    return replace(checkpoint, entries=entries, groups=groups)


def new_names(old: Sequence[str], names: Names) -> dict[str, str]:
    """Returns the new name of each old one.

    Raises:
        CheckpointError: If ``names`` has an unknown name, or too few or too many names.

    Example:
        >>> new_names(["0", "1"], ["kernel", "bias"])
        {'0': 'kernel', '1': 'bias'}
    """
    if names is None:
        return {name: name for name in old}
    if callable(names):
        return {name: names(name) for name in old}
    if isinstance(names, Mapping):
        unknown = [name for name in names if name not in old]
        if unknown:
            raise CheckpointError(
                f"names has {unknown[0]!r}, which is not in the source: {', '.join(old)}"
            )
        return {name: names.get(name, name) for name in old}
    if len(names) != len(old):
        raise CheckpointError(
            f"names must have one name for each of {len(old)} weights, got {len(names)}; the "
            f"source has {', '.join(old)}"
        )
    return dict(zip(old, names, strict=True))


def with_weights(
    checkpoint: Checkpoint, found: Mapping[str, Any] | None, old: Mapping[str, str], wanted: bool
) -> Checkpoint:
    """Returns a checkpoint with the weights from a file, or without weights.

    Args:
        checkpoint: The checkpoint, which may have weights already.
        found: The weights in the file, by old or new name.
        old: The old name for each new name.
        wanted: Whether the checkpoint shall have weights.

    Raises:
        CheckpointError: If weights are wanted, and one is missing or has another shape.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> source = Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w",)),))
        >>> with_weights(source, {"0": np.ones(3)}, {"w": "0"}, True).entries["w"].weights
        array([1., 1., 1.])
    """
    entries = {}
    for name, entry in checkpoint.entries.items():
        weights = None
        if wanted:
            weights = next(
                (found[n] for n in (old[name], name) if found and n in found), entry.weights
            )
            if weights is None:
                has = f"; it has {listed(list(found))}" if found else " or any other"
                hint = _HOW_TO_NAME if found and name == old[name] and name.isdecimal() else ""
                raise CheckpointError(f"the file has no weight {name!r}{has}{hint}")
        entries[name] = replace(entry, weights=weights)
    return replace(checkpoint, entries=entries)


def with_lr(checkpoint: Checkpoint, lr: float | None) -> Checkpoint:
    """Returns a checkpoint with the learning rate ``lr`` in all groups, or unchanged for None.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> source = Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w",)),))
        >>> with_lr(source, 0.5).groups[0].hyperparameters.lr
        0.5
    """
    if lr is None:
        return checkpoint
    groups = tuple(
        replace(group, hyperparameters=replace(group.hyperparameters, lr=lr))
        for group in checkpoint.groups
    )
    return replace(checkpoint, groups=groups)


def as_variant(checkpoint: Checkpoint, variant: str | Variant) -> Checkpoint:
    """Returns a checkpoint with which another variant can continue.

    Multiplies the momentum buffer by the learning rate, or divides it, if the variants differ in
    ``rate``. The new variant then continues with its own rule, so its steps differ from those that
    the old variant would take. The source's hyperparameters are kept.

    Args:
        checkpoint: The checkpoint.
        variant: The other variant.

    Raises:
        CheckpointError: If the learning rate is needed but is unknown or 0; or if the state cannot
            be converted: ``v`` is of another norm, or only one of the momentum buffers has
            normalised gradients.

    Example:
        >>> entry = Entry(moment=np.float32([3, 4]), v=np.float32(25))
        >>> group = Group(("w",), Hyperparameters(lr=0.5))
        >>> source = Checkpoint({"w": entry}, variants.get("openseq2seq"), (group,))
        >>> as_variant(source, "documented").entries["w"].moment
        array([1.5, 2. ], dtype=float32)
    """
    old, new = checkpoint.variant, variants.get(variant)
    for name, what in (("norm", "v"), ("normalises", "the momentum buffer")):
        mine, theirs = getattr(old, name), getattr(new, name)
        if mine != theirs:
            raise CheckpointError(
                f"{new.name!r} cannot continue from {old.name!r}: {what} is of another kind "
                f"({name} {mine!r}, not {theirs!r})"
            )
    entries = {}
    for group in checkpoint.groups:
        for name in group.names:
            if name in checkpoint.entries:
                entry = checkpoint.entries[name]
                entries[name] = replace(
                    entry,
                    moment=_rescaled(entry.moment, old, new, group.hyperparameters.lr),
                    v_max=(entry.v if entry.v_max is None else entry.v_max)
                    if new.amsgrad
                    else None,
                )
    return replace(checkpoint, entries=entries, variant=new)


def _rescaled(moment: np.ndarray, old: Variant, new: Variant, lr: float | None) -> np.ndarray:
    """Returns the momentum buffer with or without the learning rate, as the new variant needs."""
    if old.rate == new.rate:
        return moment
    if not lr:
        raise CheckpointError(
            f"from {old.name!r} to {new.name!r} the momentum buffer must be "
            f"{'multiplied' if new.rate == 'moment' else 'divided'} by the learning rate: give lr "
            f"(--lr), the current one, which must not be 0; got {lr}"
        )
    wide = moment.astype(np.result_type(moment.dtype, np.float32))
    return (wide * lr if new.rate == "moment" else wide / lr).astype(moment.dtype)


def unknown(checkpoint: Checkpoint) -> list[str]:
    """Returns the names of hyperparameters that at least one group does not have.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> group = Group(("w",), Hyperparameters(lr=0.5, beta1=0.9, beta2=0.5, epsilon=1e-8))
        >>> unknown(Checkpoint({"w": entry}, variants.DOCUMENTED, (group,)))
        ['weight_decay', 'grad_averaging', 'nesterov']
    """
    return [
        field.name
        for field in fields(Hyperparameters)
        if any(getattr(group.hyperparameters, field.name) is None for group in checkpoint.groups)
    ]


def completed(hyperparameters: Hyperparameters, variant: Variant) -> Hyperparameters:
    """Returns hyperparameters with the variant's defaults instead of unknown ones.

    Raises:
        CheckpointError: If the learning rate is unknown.

    Example:
        >>> completed(Hyperparameters(lr=0.5), variants.get("optax")).beta2
        0.25
    """
    if hyperparameters.lr is None:
        raise CheckpointError("the source has no learning rate: give the current one as lr (--lr)")
    missing = {n: x for n, x in defaults(variant).items() if getattr(hyperparameters, n) is None}
    return replace(hyperparameters, **missing)


def defaults(variant: Variant) -> dict[str, Any]:
    """Returns the default hyperparameters of a variant, except the learning rate.

    Example:
        >>> defaults(variants.get("optax"))["beta2"]
        0.25
    """
    return {
        "beta1": variant.beta1,
        "beta2": variant.beta2,
        "epsilon": variant.eps,
        "weight_decay": 0.0,
        "grad_averaging": variant.grad_averaging,
        "nesterov": variant.nesterov,
    }


def single_step(checkpoint: Checkpoint, framework: str) -> int:
    """Returns the number of steps for a framework that has one count for all weights.

    Raises:
        CheckpointError: If the weights have different counts and the variant depends on them.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4), step=7)
        >>> single_step(Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w",)),)), "JAX")
        7
    """
    steps = {name: entry.step for name, entry in checkpoint.entries.items()}
    if checkpoint.variant.counts and len(set(steps.values())) > 1:
        least, most = (f(steps, key=lambda name: steps[name] or 0) for f in (min, max))
        raise CheckpointError(
            f"{framework} has one count of steps for all weights, but {least!r} took "
            f"{steps[least]} and {most!r} {steps[most]}; variant {checkpoint.variant.name!r} "
            "depends on the count"
        )
    return checkpoint.step or 0


def all_entries(checkpoint: Checkpoint, framework: str) -> dict[str, Entry]:
    """Returns the entries for a framework that needs a state for every weight.

    Raises:
        CheckpointError: If a weight has no state.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> some = Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w", "x")),))
        >>> all_entries(some, "Keras")
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: Keras needs a state for every weight, but 'x' \
has none: it was never trained
    """
    for name in checkpoint.names:
        if name not in checkpoint.entries:
            raise CheckpointError(
                f"{framework} needs a state for every weight, but {name!r} has none: it was never "
                "trained"
            )
    return dict(checkpoint.entries)


# -- content of files ----------------------------------------------------------------------------


def at(content: Any, key: str) -> Any:
    """Returns the value of a key, or of several keys with dots between them.

    Raises:
        CheckpointError: If there is no such key; the message lists the existing keys.

    Example:
        >>> at({"state": {"optimizers": ["first", "second"]}}, "state.optimizers.1")
        'second'
        >>> at({"model": 1, "optim": 2}, "optimizer")
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: there is no key 'optimizer'; it has model, \
optim
    """
    if isinstance(content, Mapping) and key in content:  # also if the key itself has dots
        return content[key]
    found = content
    for part in key.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, (list, tuple)) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            where = "" if part == key else f": no {part!r}"
            raise CheckpointError(f"there is no key {key!r}{where}{keys_of(found)}")
    return found


def keys_of(content: Any) -> str:
    """Returns the end of an error message: the keys that exist.

    Example:
        >>> keys_of({"model": 1, "optim": 2}), keys_of(["first", "second"]), keys_of(3)
        ('; it has model, optim', '; it has 0, 1', '')
    """
    if isinstance(content, Mapping):
        keys = list(content)
    else:
        keys = list(range(len(content))) if isinstance(content, (list, tuple)) else []
    return f"; it has {listed(keys)}" if keys else ""


def listed(keys: Sequence[Any], most: int = 20) -> str:
    """Returns the first keys as text, and how many more there are.

    Example:
        >>> listed("abc", most=2)
        'a, b and 1 more'
    """
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(printable(str(key)) for key in keys[:most]) + more


def printable(text: str) -> str:
    """Returns a text from a file in a form that is safe to print in a terminal.

    Example:
        >>> printable("model"), printable("two" + chr(10) + "lines").count(chr(10))
        ('model', 0)
    """
    return text if text.isprintable() else repr(text)


def plain(value: Any) -> Any:
    """Returns a value that JSON can represent; an array of shape () becomes its number.

    Raises:
        CheckpointError: If JSON cannot represent the value.

    Example:
        >>> plain({"initial_lr": np.float32(0.5), "name": "decayed"})
        {'initial_lr': 0.5, 'name': 'decayed'}
    """
    if value is None or type(value) in (bool, int, float, str):  # float64 of NumPy is a float, too
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(value[key]) for key in value}
    number: Any = value
    if getattr(number, "shape", None) == ():
        return plain(number.item())
    raise CheckpointError(f"{type(value).__name__} is not plain data")


def lost(checkpoint: Checkpoint, kind: str) -> list[str]:
    """Returns the names of items in the source's groups that a target does not keep.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> group = Group(("w",), others={"initial_lr": 0.5})
        >>> checkpoint = Checkpoint({"w": entry}, variants.DOCUMENTED, (group,))
        >>> lost(checkpoint, "jax"), lost(checkpoint, "torch")
        (['initial_lr'], [])
    """
    names = [name for group in checkpoint.groups for name in group.lost]
    if kind in ("jax", "tensorflow"):  # their files cannot store these items
        names += [name for group in checkpoint.groups for name in group.others]
    return list(dict.fromkeys(names))


def to_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns everything but the tensors, as text for the metadata of files.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> checkpoint = Checkpoint({"w": entry}, variants.get("optax"), (Group(("w",)),))
        >>> to_metadata(checkpoint)["variant"]
        '"optax"'
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "variant": json.dumps(variants.as_config(checkpoint.variant)),
        "groups": json.dumps([_as_json(group) for group in checkpoint.groups]),
    }


def _as_json(group: Group) -> dict[str, Any]:
    known = {"names": group.names, "hyperparameters": asdict(group.hyperparameters)}
    return known | ({"others": group.others} if group.others else {})


def from_metadata(metadata: Mapping[str, Any]) -> tuple[Variant, tuple[Group, ...]]:
    """Undoes ``to_metadata``.

    Raises:
        CheckpointError: If the metadata are of another version, or incomplete.

    Example:
        >>> from_metadata({"format": "pt"})
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: its metadata must have format \
novograd-checkpoint and version 1, got {'format': 'pt'}
    """
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise CheckpointError(
            f"its metadata must have format {FORMAT} and version {VERSION}, got {dict(metadata)}"
        )
    try:
        variant = variants.get(variants.from_config(json.loads(metadata["variant"])))
        groups = tuple(
            Group(
                tuple(group["names"]),
                Hyperparameters(**group["hyperparameters"]),
                dict(group.get("others", {})),
            )
            for group in json.loads(metadata["groups"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"its metadata are wrong: {error!r}") from error
    return variant, groups
