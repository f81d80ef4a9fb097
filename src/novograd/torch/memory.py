"""The memory of many tensors at once: what a plan depends on, and the addresses for the kernels."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from operator import is_not
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Parameter

from novograd import native
from novograd.torch.parts import Part

COLUMNS = ("param", "grad", "exp_avg", "exp_avg_sq", "square", "exp_avg_scale", "step")
"""The fields of a part whose addresses the kernels need, in the order of ``addresses``."""

# Newer versions of torch have it. One call for all tensors takes a third of the time of methods.
_EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
_is_given = partial(is_not, None)
_PLAIN = Tensor, Parameter


def described(tensors: list[Tensor | None]) -> tuple[Any, np.ndarray | None]:
    """Returns facts about tensors, and their addresses.

    Args:
        tensors: The tensors; None stands for a missing one.

    Returns:
        Facts that are equal if and only if all classes, devices, dtypes, shapes and strides are.
        And the addresses as int64, 0 for None; or None if they are not at hand.

    Raises:
        RuntimeError: If torch does not tell these facts about a tensor.

    Example:
        >>> import torch
        >>> w = torch.zeros(2, 3)
        >>> facts, _ = described([w, None])
        >>> facts == described([w + 1, None])[0], facts == described([w.T, None])[0]
        (True, False)
    """
    if _EXCHANGE and native.kernels:
        try:
            facts, addresses = native.kernels.described(_EXCHANGE, _PLAIN, tensors)
        except (TypeError, RuntimeError):  # a subclass, or DLPack does not know such a tensor
            pass
        else:
            return facts, np.frombuffer(addresses, np.int64)
    given = [x for x in tensors if x is not None]
    contiguous = list(map(Tensor.is_contiguous, given))  # faster than strides
    facts = (
        list(map(type, tensors)),
        [(x.dtype, x.device, x.layout, x.shape) for x in given],
        contiguous,
        [] if all(contiguous) else list(map(Tensor.stride, given)),
    )
    return facts, None


def addresses(parts: Sequence[Part]) -> np.ndarray:
    """Returns the addresses of the tensors of parts: int64, of shape (7, parts).

    The rows have the order of ``COLUMNS``. The address of a missing tensor is 0.

    Example:
        >>> import torch
        >>> w, g, m, v = (torch.zeros(2) for _ in range(4))
        >>> found = addresses([Part(w, g, m, v)])
        >>> found[:4, 0].tolist() == [x.data_ptr() for x in (w, g, m, v)], found[4:, 0].tolist()
        (True, [0, 0, 0])
    """
    columns = dict(zip(Part._fields, zip(*parts, strict=True), strict=True))
    given = {name: columns[name] for name in COLUMNS if any(map(_is_given, columns[name]))}
    tensors = list(chain.from_iterable(given.values()))
    _, found = described(tensors)
    if found is None:
        found = np.array([0 if x is None else x.data_ptr() for x in tensors], np.int64)
    return table(given, found)


def table(columns: Iterable[str], found: np.ndarray) -> np.ndarray:
    """Returns the result of ``addresses`` from the addresses in some columns.

    Example:
        >>> table(["param", "grad"], np.array([10, 20, 30, 40]))[:3].tolist()
        [[10, 20], [30, 40], [0, 0]]
    """
    names = list(columns)
    rows = np.zeros((len(COLUMNS), len(found) // len(names)), np.int64)
    for name, row in zip(names, found.reshape(len(names), -1), strict=True):
        if name in COLUMNS:
            rows[COLUMNS.index(name)] = row
    return rows
