"""The backends: each module here has the same two functions, ``problem`` and ``prepare``.

``eager`` uses the rule directly, one tensor at a time. The other modules implement the rule again:
``foreach`` with torch's foreach operations, ``native`` with the kernels for CPUs, and ``triton``
with the kernels for GPUs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from novograd.torch.options import Options
from novograd.torch.parts import Part


class Scaling(NamedTuple):
    """The values that a ``GradScaler`` gives to an optimizer that unscales gradients itself.

    Attributes:
        grad_scale: The divisor of the gradients, with one element; None means 1.
        found_inf: If not 0, the step must change nothing.
    """

    grad_scale: Tensor | None
    found_inf: Tensor


class PreparedStep(NamedTuple):
    """A prepared step.

    Attributes:
        square_sums: Computes the squared norms of the local pieces of layers that are cut across
            processes.
        take: Takes the step.
    """

    square_sums: Callable[[], None]
    take: Callable[[], None]


class Backend(Protocol):
    """A module of this package."""

    @property
    def UNSCALES(self) -> bool:  # noqa: N802
        """Whether its steps unscale gradients for a ``GradScaler`` and never wait for a device."""
        ...

    def problem(self, part: Part, options: Options, /) -> str | None:
        """Returns why the backend does not support a part, or None if it does."""
        ...

    def prepare(
        self,
        parts: Sequence[Part],
        options: Options,
        scaling: Scaling | None = None,
        memo: dict[str, Any] | None = None,
        /,
    ) -> PreparedStep:
        """Checks parts that have no ``problem``, and returns their step. Changes nothing.

        In ``memo`` a backend may keep facts that depend only on the devices, dtypes, shapes and
        memory layouts of the parts. The next steps give the same ``memo`` if these are the same.
        Its entry ``"addresses"``, if it is given, is ``novograd.torch.memory.addresses(parts)``.
        """
        ...
