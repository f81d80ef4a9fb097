"""What can take a step of some parts: the same two functions in each module here.

``eager`` is the rule itself, one tensor at a time. The others are second writings of it: by torch's
foreach operations, by the kernels for CPUs (``native``), and by those for GPUs (``triton``).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from novograd.torch.options import Options
from novograd.torch.parts import Part


class Scaling(NamedTuple):
    """What a ``GradScaler`` hands to an optimizer that unscales gradients itself.

    Attributes:
        grad_scale: What the gradients are to be divided by, of one element; None for 1.
        found_inf: Not 0 where the step is to be left out.
    """

    grad_scale: Tensor | None
    found_inf: Tensor


class Step(NamedTuple):
    """A step that is ready to be taken.

    Attributes:
        square_sums: Computes the norms of what is here of layers that other processes have pieces
            of.
        take: Takes it.
    """

    square_sums: Callable[[], None]
    take: Callable[[], None]


class Backend(Protocol):
    """A module here."""

    @property
    def UNSCALES(self) -> bool:  # noqa: N802
        """Whether its steps unscale gradients as a ``GradScaler`` says, without waiting for it."""
        ...

    def problem(self, part: Part, options: Options, /) -> str | None:
        """Returns why it cannot take a part, or None if it can."""
        ...

    def prepare(
        self, parts: Sequence[Part], options: Options, scaling: Scaling | None = None, /
    ) -> Step:
        """Returns the step of parts without a problem; they are checked, and nothing is changed."""
        ...
