"""Parts of the Python code that ``how_to_load`` of each target returns."""

from collections.abc import Collection, Mapping

from novograd import variants
from novograd.checkpoint.neutral import Checkpoint, Hyperparameters, defaults

_ARGUMENTS = (*vars(Hyperparameters()), "variant", "layers")


def arguments(
    checkpoint: Checkpoint,
    theirs: Mapping[str, str],
    needed: Collection[str] = _ARGUMENTS,
) -> str:
    """Returns the arguments of the optimizer that continues the training, as Python code.

    Args:
        checkpoint: The checkpoint that the optimizer loads.
        theirs: The optimizer's names of arguments, where they differ from ours.
        needed: The arguments to include, by our names.

    Example:
        >>> import numpy as np
        >>> from novograd.checkpoint import Entry, Group
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> group = Group(("w",), Hyperparameters(lr=0.5, beta1=0.9, weight_decay=0.0))
        >>> checkpoint = Checkpoint({"w": entry}, variants.get("nvidia"), (group,))
        >>> arguments(checkpoint, {"beta1": "b1"})
        "lr=0.5, b1=0.9, variant='nvidia'"
    """
    variant, config = checkpoint.variant, variants.as_config(checkpoint.variant)
    given = {"lr": "lr"}
    known = defaults(variant)
    for name in vars(Hyperparameters()):
        values = {getattr(group.hyperparameters, name) for group in checkpoint.groups}
        if len(values) == 1 and not values <= {None, known.get(name)}:
            given[name] = repr(values.pop())
    if variant != variants.DOCUMENTED:
        named = isinstance(config, str)
        given["variant"] = repr(config) if named else f"novograd.variants.from_config({config})"
    if variant.layers is not None and not _has_layers(checkpoint):
        given["layers"] = "novograd.layers.Whole()"
    return ", ".join(
        f"{theirs.get(name, name)}={value}" for name, value in given.items() if name in needed
    )


def remarks(checkpoint: Checkpoint, grouped: bool = False) -> str:
    """Returns a comment that names what the optimizer needs in addition to ``arguments``.

    Args:
        checkpoint: The checkpoint that the optimizer loads.
        grouped: Whether the target has groups; it must have as many as the source then.

    Example:
        >>> import numpy as np
        >>> from novograd.checkpoint import Checkpoint, Entry, Group, Hyperparameters
        >>> entry = Entry(moment=np.zeros((3, 2), np.float32), v=np.ones((3, 1), np.float32))
        >>> remarks(Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w",)),)))
        '  # with the layers of the source'
    """
    found = []
    if grouped and len(checkpoint.groups) > 1:
        found.append(f"the {len(checkpoint.groups)} groups")
    elif len({group.hyperparameters for group in checkpoint.groups}) > 1:
        found.append("the options of all groups, which differ,")
    if _has_layers(checkpoint):
        found.append("the layers")
    return f"  # with {' and '.join(found)} of the source" if found else ""


def has_weights(checkpoint: Checkpoint) -> bool:
    """Returns whether a checkpoint contains weights.

    Example:
        >>> import numpy as np
        >>> from novograd.checkpoint import Checkpoint, Entry, Group, Hyperparameters
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4))
        >>> has_weights(Checkpoint({"w": entry}, variants.DOCUMENTED, (Group(("w",)),)))
        False
    """
    return any(entry.weights is not None for entry in checkpoint.entries.values())


def _has_layers(checkpoint: Checkpoint) -> bool:
    """Returns whether a weight has several layers, or the axes of layers."""
    return any(entry.v.ndim for entry in checkpoint.entries.values())
