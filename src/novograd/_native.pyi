"""The extension module of ``csrc/module.cpp``."""

from collections.abc import Sequence

KINDS: tuple[tuple[str, str, str], ...]
"""Dtypes of weights, gradient and moment for which there are kernels."""

class Layers:
    """Addresses of arrays, to be valid as long as this is used."""

    def __init__(
        self,
        *,
        kinds: Sequence[int],
        grids: Sequence[tuple[int, int, int, int]],
        scales: Sequence[float],
        weights: Sequence[int],
        gradients: Sequence[int],
        moments: Sequence[int],
        vs: Sequence[int],
        squares: Sequence[int | None] | None = None,
    ) -> None:
        """Takes for each tensor an index of ``KINDS``, its layers and the addresses.

        Args:
            kinds: Indices of ``KINDS``.
            grids: Where the layers lie, see ``novograd.native.grid``. Complex numbers are pairs.
            scales: Factors of the normalised gradients.
            weights: Addresses of the weights.
            gradients: Addresses of the gradients.
            moments: Addresses of the moments.
            vs: Addresses of the second moments: of each layer a float64 for float64 weights, else a
                float32, without gaps.
            squares: Addresses of the sums of the gradients' squares: of each layer a float64,
                without gaps. Where there is one, ``step`` computes no sums, and also updates the
                second moment of a layer of which no element lies here. None or 0: there is none.

        Raises:
            ValueError: If the lists differ in length.
        """

    def overlap(self) -> tuple[int, int] | None:
        """Returns two tensors of which one is written to where the other lies."""

    def square_sums(self, threads: int) -> None:
        """Writes the sums of the gradients' squares to ``squares``, without the GIL.

        Raises:
            ValueError: If a tensor has no address there; then nothing has changed.
        """

    def step(self, rule: Sequence[float], threads: int) -> None:
        """Takes a step in place, by a ``novograd.native.Rule``, without the GIL."""

def traffic(*, weights: int, gradient: int, moment: int, size: int, threads: int) -> None:
    """Moves as much memory as a step of float32 layers with ``size`` weights has to."""

def instruction_sets() -> list[str]:
    """Returns for which instruction sets this machine has kernels, the best last."""

def instruction_set() -> str:
    """Returns which is used: the best, or the one that NOVOGRAD_ISA names."""

def xla_step() -> object:
    """Returns a capsule of the handler for XLA."""
