"""Rows that follow the modules of a model."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from novograd.layers import Rows


def rows_of(
    module: nn.Module, *, scale: Literal["norm", "rms"] = "rms"
) -> Callable[[str | None, Tensor], Rows]:
    """Returns layers for a model in which each output unit is a layer, in every module.

    A parameter does not know its module, so ``Rows()`` alone takes the first axis of each weight.
    A transposed convolution has its output units along the second axis. This function finds these
    weights. In a grouped transposed convolution a layer is one output unit of each group, or, if
    each group has one input channel, one output unit.

    Args:
        module: The model.
        scale: As in ``Rows``: ``"rms"`` for ``variant="rows"``, ``"norm"`` for other variants.

    Returns:
        A function ``(name, parameter)`` for the ``layers`` of the optimizer, whose parameters must
        be named: from ``no_decay(module, ...)`` or ``module.named_parameters()``. It raises
        TypeError if a parameter has no name, and ValueError if the model has no parameter with this
        name.

    Raises:
        ValueError: If ``scale`` is anything else.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> model = nn.Sequential(nn.Conv3d(2, 4, 3), nn.ConvTranspose3d(4, 3, 2))
        >>> optimizer = NovoGrad(model.named_parameters(), variant="rows", layers=rows_of(model))
        >>> model[1].weight.shape, rows_of(model)("1.weight", model[1].weight)
        (torch.Size([4, 3, 2, 2, 2]), Rows(axes=1, scale='rms'))
    """
    groups = {
        f"{path}.{name}" if path else name: _groups(part) if name == "weight" else None
        for path, part in module.named_modules(remove_duplicate=False)
        for name, _ in part.named_parameters(recurse=False, remove_duplicate=False)
    }
    return partial(_rows, groups, Rows(scale=scale), Rows(1, scale), Rows((0, 1), scale))


def _groups(module: nn.Module) -> int | None:
    """Returns the number of groups of a transposed convolution, and None for other modules."""
    return module.groups if isinstance(module, _ConvTransposeNd) else None


def _rows(
    groups: dict[str, int | None],
    usual: Rows,
    transposed: Rows,
    depthwise: Rows,
    name: str | None,
    parameter: Tensor,
) -> Rows:
    if name is None:
        raise TypeError("rows_of needs the names of the parameters")
    if name not in groups:
        raise ValueError(f"the model that rows_of got has no parameter {name!r}")
    if groups[name] is None:
        return usual
    # A lazy module knows its number of input channels only after its first call.
    return depthwise if groups[name] == parameter.shape[0] else transposed
