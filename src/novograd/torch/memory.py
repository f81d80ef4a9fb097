"""The memory of many tensors at once: what a plan depends on, and the addresses for the kernels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Parameter

from novograd import native
from novograd.torch.parts import Part, column

ADDRESSES = ("param", "grad", "exp_avg", "exp_avg_sq", "square", "exp_avg_scale", "step")
"""The fields of a part whose addresses the kernels need, in the order of ``addresses``."""

_FIELDS = (*ADDRESSES, "maximum")
# Newer versions of torch have it. One call for all tensors takes a third of the time of methods.
_EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
_PLAIN = Tensor, Parameter


def described(columns: Mapping[str, list[Any]]) -> tuple[Any, np.ndarray | None]:
    """Returns facts about the tensors of parts, and their addresses.

    Args:
        columns: For each field that has tensors, these tensors of all parts, in lists of the same
            length. None stands for a missing tensor.

    Returns:
        Facts that are equal if and only if all classes, devices, dtypes, shapes and strides are.
        And the addresses in the form of the function ``addresses``, or None if torch does not give
        them all at once.

    Raises:
        RuntimeError: If torch does not tell these facts about a tensor.

    Example:
        >>> import torch
        >>> w = torch.zeros(2, 3)
        >>> facts, _ = described({"param": [w, None]})
        >>> facts == described({"param": [w + 1, None]})[0]
        True
        >>> facts == described({"param": [w.T, None]})[0]
        False
    """
    if _EXCHANGE and native.kernels:
        try:
            facts, found = native.kernels.described(
                _EXCHANGE, _PLAIN, list(map(columns.get, _FIELDS))
            )
        except (TypeError, RuntimeError):  # a subclass, or DLPack does not know such a tensor
            pass
        else:
            return facts, np.frombuffer(found, np.int64).reshape(len(_FIELDS), -1)[:-1]
    facts = [list(columns)]
    for tensors in columns.values():
        given = [x for x in tensors if x is not None]
        contiguous = list(map(Tensor.is_contiguous, given))  # faster than strides
        facts += [
            list(map(type, tensors)),
            [(x.dtype, x.device, x.layout, x.shape) for x in given],
            contiguous,
            [] if all(contiguous) else list(map(Tensor.stride, given)),
        ]
    return facts, None


def addresses(parts: Sequence[Part]) -> np.ndarray:
    """Returns the addresses of the tensors of parts: int64, of shape (7, parts).

    The rows have the order of ``ADDRESSES``. The address of a missing tensor is 0.

    Example:
        >>> import torch
        >>> w, g, m, v = (torch.zeros(2) for _ in range(4))
        >>> found = addresses([Part(w, g, m, v)])
        >>> found[:4, 0].tolist() == [x.data_ptr() for x in (w, g, m, v)], found[4:, 0].tolist()
        (True, [0, 0, 0])
    """
    columns = {name: column(parts, name) for name in ADDRESSES}
    found = described(columns)[1]
    if found is not None:
        return found
    rows = [[0 if x is None else x.data_ptr() for x in tensors] for tensors in columns.values()]
    return np.array(rows, np.int64).reshape(len(ADDRESSES), -1)
