"""The neutral form of a checkpoint, through which every conversion goes.

The moment is what ``novograd.torch`` stores for the variant: with its positive sign, so that a step
subtracts it, and with the learning rate inside it exactly if the variant's ``rate`` is "moment".
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

# Why a weight is not found, and how the names of all are.
_NUMBERED = """; the optimizer was made of parameters without names, so that its state has numbers \
for them: give their names (--names), of which a line makes the file where the model is:
import json, pathlib; pathlib.Path("names.json").write_text(json.dumps([n for g in \
optimizer.param_groups for p in g["params"] for n, q in model.named_parameters() if q is p]))"""

_NORMS = ("float16", "bfloat16", "float32", "float64", "int32", "int64")
_WEIGHTS = (*_NORMS[:4], "complex64", "complex128")

Names = Mapping[str, str] | Sequence[str] | Callable[[str], str] | None


class CheckpointError(ValueError):
    """A checkpoint cannot be read, converted or written; the message says of which entry."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The hyperparameters of a group of weights; None where the source does not say one.

    Raises:
        CheckpointError: If one is not a number.

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
        """Checks them, since a file may hold anything."""
        for name, value in vars(self).items():
            if not isinstance(value, (bool, int, float, type(None))):
                raise CheckpointError(f"{name} must be a number, got {value!r}")


@dataclass(frozen=True)
class Entry:
    """The state of a weight.

    Attributes:
        moment: Of the weight's shape and dtype.
        v: The second moment, of shape () or that of ``novograd.layers``, float32 at least: the
            square of the norm, or the norm itself for variants of the largest element.
        v_max: With amsgrad, the largest ``v`` so far.
        step: How many steps were taken; None where the source does not count them.
        weights: The weight itself, if it was asked for.
    """

    moment: np.ndarray
    v: np.ndarray
    v_max: np.ndarray | None = None
    step: int | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Group:
    """Weights that share hyperparameters, in order; those that were never trained have no entry.

    Attributes:
        names: Their names.
        hyperparameters: Those of the rule.
        others: What else a group of PyTorch holds, such as ``initial_lr`` of its schedulers: plain
            data, which JSON knows.
        lost: The names of its other entries that are not plain data. They are not kept.
    """

    names: tuple[str, ...]
    hyperparameters: Hyperparameters = Hyperparameters()
    others: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The state of an optimizer, whatever framework it comes from.

    Attributes:
        entries: The state of each weight by its name; in the order of the groups.
        variant: Which NovoGrad.
        groups: The weights in the order of the source.

    Raises:
        CheckpointError: If a name is not a text or occurs twice, or an entry has shapes that do not
            fit each other, or a dtype that no weight has.

    Example:
        >>> entry = Entry(moment=np.zeros((2, 3), np.float32), v=np.float32(4), step=10)
        >>> checkpoint = Checkpoint({"w": entry}, variants.get("optax"), (Group(("w",)),))
        >>> checkpoint.step
        10
        >>> Checkpoint({"w": replace(entry, v=np.zeros(2))}, checkpoint.variant, checkpoint.groups)
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: v of 'w' has shape (2,), which is none of a \
weight of shape (2, 3)
    """

    entries: Mapping[str, Entry]
    variant: Variant
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        """Checks the entries, brings them in order, and takes ``v`` to float32 at least."""
        names = self.names
        for name in (*names, self.variant.name):
            if not isinstance(name, str) or not _is_text(name):
                raise CheckpointError(f"{name!r} is no name")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise CheckpointError(f"there is more than one weight {repeated[0]!r}")
        unknown = set(self.entries) - set(names)
        if unknown:
            raise CheckpointError(f"no group has the weight {min(unknown)!r}")
        entries = {
            n: _checked(n, self.entries[n], self.variant) for n in names if n in self.entries
        }
        if not entries:
            raise CheckpointError("there is no state of any weight: no step was taken")
        object.__setattr__(self, "entries", entries)

    @property
    def names(self) -> list[str]:
        """The names of all weights, in order, also of those that were never trained."""
        return [name for group in self.groups for name in group.names]

    @property
    def step(self) -> int | None:
        """How many steps were taken at most; None if no weight says so."""
        return max((x.step for x in self.entries.values() if x.step is not None), default=None)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _checked(name: str, entry: Entry, variant: Variant) -> Entry:
    """Returns an entry with ``v`` in float32 at least, or raises CheckpointError."""
    moment = np.asarray(entry.moment)
    for part in ("moment", "v", "v_max", "weights"):
        value = getattr(entry, part)
        allowed = _WEIGHTS if part in ("moment", "weights") else _NORMS
        if value is not None and np.asarray(value).dtype.name not in allowed:
            raise CheckpointError(
                f"{part} of {name!r} has dtype {np.asarray(value).dtype.name}, which is none of "
                f"{', '.join(allowed)}"
            )
    if entry.step is not None and not 0 <= entry.step < 2**63:
        raise CheckpointError(f"{name!r} took {entry.step} steps")
    v, v_max = (None if x is None else _wide(x) for x in (entry.v, entry.v_max))
    assert v is not None
    fits = v.ndim in (0, moment.ndim) and all(
        length <= max(whole, 1) for length, whole in zip(v.shape, moment.shape, strict=False)
    )
    if not fits:
        raise CheckpointError(
            f"v of {name!r} has shape {v.shape}, which is none of a weight of shape {moment.shape}"
        )
    if variant.amsgrad != (v_max is not None):
        has = "no" if v_max is None else "a"
        raise CheckpointError(
            f"{name!r} has {has} maximum of v, and the variant is {variant.name!r}"
        )
    if v_max is not None and v_max.shape != v.shape:
        raise CheckpointError(f"v_max of {name!r} has shape {v_max.shape}, and v {v.shape}")
    weights = None if entry.weights is None else np.asarray(entry.weights)
    if weights is not None and weights.shape != moment.shape:
        raise CheckpointError(
            f"the weights of {name!r} have shape {weights.shape}, and its moment {moment.shape}"
        )
    return Entry(moment, v, v_max, entry.step, weights)


def _wide(v: Any) -> np.ndarray:
    """Returns a second moment in float32, or float64 if it is."""
    v = np.asarray(v)
    return v if v.dtype == np.float64 else v.astype(np.float32)


def renamed(checkpoint: Checkpoint, names: Names) -> Checkpoint:
    """Returns a checkpoint with other names.

    Args:
        checkpoint: The checkpoint.
        names: The new names: a mapping of old to new, which may leave names out, and gives the
            order if it does not; a sequence in the order of the checkpoint; or a function.

    Raises:
        CheckpointError: If it names what is not there, or two weights get one name.

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
        CheckpointError: If ``names`` has names that are not there, or too few or too many.

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
                f"names has {unknown[0]!r}, which is none of the source: {', '.join(old)}"
            )
        return {name: names.get(name, name) for name in old}
    if len(names) != len(old):
        raise CheckpointError(
            f"names must be one for each of {len(old)} weights, got {len(names)}; the source has "
            f"{', '.join(old)}"
        )
    return dict(zip(old, names, strict=True))


def with_weights(
    checkpoint: Checkpoint, found: Mapping[str, Any] | None, old: Mapping[str, str], wanted: bool
) -> Checkpoint:
    """Returns a checkpoint with the weights that a file holds, or without any.

    Args:
        checkpoint: The checkpoint, which may have weights already.
        found: The weights in the file by their names there, which are the old or the new ones.
        old: The old name of each new one.
        wanted: Whether weights are wanted at all.

    Raises:
        CheckpointError: If they are wanted, and one is missing or has another shape.

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
                has = f"among {listed(list(found))}" if found else "and no other"
                hint = _NUMBERED if found and name == old[name] and name.isdecimal() else ""
                raise CheckpointError(f"there is no weight {name!r}, {has}{hint}")
        entries[name] = replace(entry, weights=weights)
    return replace(checkpoint, entries=entries)


def with_lr(checkpoint: Checkpoint, lr: float | None) -> Checkpoint:
    """Returns a checkpoint with another learning rate in all groups, unless it is None.

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
    """Returns a checkpoint with which another variant goes on.

    The learning rate goes into the moment, or out of it, as the variants have it. Only the moment
    of what another rule has seen so far is right then: from here on the rules differ. What
    hyperparameters the source says are kept.

    Args:
        checkpoint: The checkpoint.
        variant: The other variant.

    Raises:
        CheckpointError: If the learning rate is needed and not known, or 0; or if the state of one
            says nothing about that of the other: if ``v`` is of another norm, or the moment of
            gradients that are not normalised.

    Example:
        >>> entry = Entry(moment=np.float32([3, 4]), v=np.float32(25))
        >>> group = Group(("w",), Hyperparameters(lr=0.5))
        >>> source = Checkpoint({"w": entry}, variants.get("openseq2seq"), (group,))
        >>> as_variant(source, "documented").entries["w"].moment
        array([1.5, 2. ], dtype=float32)
    """
    old, new = checkpoint.variant, variants.get(variant)
    for name, what in (("norm", "v"), ("normalises", "the moment")):
        mine, theirs = getattr(old, name), getattr(new, name)
        if mine != theirs:
            raise CheckpointError(
                f"{old.name!r} cannot go on as {new.name!r}: {what} is of another kind "
                f"({name} {mine!r}, not {theirs!r})"
            )
    entries = {}
    for group in checkpoint.groups:
        for name in group.names:
            if name in checkpoint.entries:
                entry = checkpoint.entries[name]
                entries[name] = replace(
                    entry,
                    moment=_moved(entry.moment, old, new, group.hyperparameters.lr),
                    v_max=(entry.v if entry.v_max is None else entry.v_max)
                    if new.amsgrad
                    else None,
                )
    return replace(checkpoint, entries=entries, variant=new)


def _moved(moment: np.ndarray, old: Variant, new: Variant, lr: float | None) -> np.ndarray:
    """Returns the moment with the learning rate where another variant has it."""
    if old.rate == new.rate:
        return moment
    if not lr:
        raise CheckpointError(
            f"from {old.name!r} to {new.name!r} the learning rate goes "
            f"{'into' if new.rate == 'moment' else 'out of'} the moment: give lr, the current one, "
            f"which must not be 0; got {lr}"
        )
    wide = moment.astype(np.result_type(moment.dtype, np.float32))
    return (wide * lr if new.rate == "moment" else wide / lr).astype(moment.dtype)


def unknown(checkpoint: Checkpoint) -> list[str]:
    """Returns which hyperparameters no or not every group says.

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
    """Returns hyperparameters with the variant's defaults in the place of unknown ones.

    Raises:
        CheckpointError: If the learning rate is not known.

    Example:
        >>> completed(Hyperparameters(lr=0.5), variants.get("optax")).beta2
        0.25
    """
    if hyperparameters.lr is None:
        raise CheckpointError("the source does not say the learning rate: give lr, the current one")
    missing = {n: x for n, x in defaults(variant).items() if getattr(hyperparameters, n) is None}
    return replace(hyperparameters, **missing)


def defaults(variant: Variant) -> dict[str, Any]:
    """Returns the hyperparameters of a variant that are not given, but for the learning rate.

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
        "nesterov": False,
    }


def single_step(checkpoint: Checkpoint, framework: str) -> int:
    """Returns the number of steps for a framework that has one count for all weights.

    Raises:
        CheckpointError: If the weights differ, and the variant's rule depends on it.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4), step=7)
        >>> single_step(Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w",)),)), "JAX")
        7
    """
    steps = {name: entry.step for name, entry in checkpoint.entries.items()}
    if checkpoint.variant.counts and len(set(steps.values())) > 1:
        least, most = (f(steps, key=lambda name: steps[name] or 0) for f in (min, max))
        raise CheckpointError(
            f"{framework} counts the steps of all weights together, but {least!r} took "
            f"{steps[least]} and {most!r} {steps[most]}, on which variant "
            f"{checkpoint.variant.name!r} depends"
        )
    return checkpoint.step or 0


def all_entries(checkpoint: Checkpoint, framework: str) -> dict[str, Entry]:
    """Returns the entries for a framework that has state for every weight.

    Raises:
        CheckpointError: If a weight has none.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> some = Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w", "x")),))
        >>> all_entries(some, "Keras")
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: Keras has state for every weight, and there \
is none of 'x', which was never trained
    """
    for name in checkpoint.names:
        if name not in checkpoint.entries:
            raise CheckpointError(
                f"{framework} has state for every weight, and there is none of {name!r}, which "
                "was never trained"
            )
    return dict(checkpoint.entries)


# -- what files hold -----------------------------------------------------------------------------


def at(content: Any, key: str) -> Any:
    """Returns what is under a key of a file, or under several with dots between them.

    Raises:
        CheckpointError: If there is none; the message has the keys that there are.

    Example:
        >>> at({"state": {"optimizers": ["first", "second"]}}, "state.optimizers.1")
        'second'
        >>> at({"model": 1, "optim": 2}, "optimizer")
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: there is no key 'optimizer'; it has model, \
optim
    """
    if isinstance(content, Mapping) and key in content:  # whose name has dots itself
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
    """Returns the end of a message that there is no such key: which there are.

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
    """Returns the first of some keys, and how many more there are.

    Example:
        >>> listed("abc", most=2)
        'a, b and 1 more'
    """
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(printable(str(key)) for key in keys[:most]) + more


def printable(text: str) -> str:
    """Returns a text of a file as a terminal may get it.

    Example:
        >>> printable("model"), printable("two" + chr(10) + "lines").count(chr(10))
        ('model', 0)
    """
    return text if text.isprintable() else repr(text)


def plain(value: Any) -> Any:
    """Returns a value that JSON can hold, as it is; an array of one number as that number.

    Raises:
        CheckpointError: If JSON cannot hold it.

    Example:
        >>> plain({"initial_lr": np.float32(0.5), "name": "decayed"})
        {'initial_lr': 0.5, 'name': 'decayed'}
    """
    if value is None or type(value) in (bool, int, float, str):  # and not float64 of NumPy
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(value[key]) for key in value}
    number: Any = value
    if getattr(number, "shape", None) == ():
        return plain(number.item())
    raise CheckpointError(f"{type(value).__name__} is no plain data")


def lost(checkpoint: Checkpoint, kind: str) -> list[str]:
    """Returns what else groups of the source hold that a target does not.

    Example:
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> group = Group(("w",), others={"initial_lr": 0.5})
        >>> checkpoint = Checkpoint({"w": entry}, variants.DOCUMENTED, (group,))
        >>> lost(checkpoint, "jax"), lost(checkpoint, "torch")
        (['initial_lr'], [])
    """
    names = [name for group in checkpoint.groups for name in group.lost]
    if kind in ("jax", "tensorflow"):  # which have no place for it
        names += [name for group in checkpoint.groups for name in group.others]
    return list(dict.fromkeys(names))


def to_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns what is no tensor, as text that files can hold beside tensors.

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
        CheckpointError: If the metadata are not of this version, or not whole.

    Example:
        >>> from_metadata({"format": "pt"})
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: its metadata are not those of \
novograd-checkpoint 1: {'format': 'pt'}
    """
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise CheckpointError(f"its metadata are not those of {FORMAT} {VERSION}: {dict(metadata)}")
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
