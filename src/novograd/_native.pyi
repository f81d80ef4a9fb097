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
        sizes: Sequence[int],
        weights: Sequence[int],
        gradients: Sequence[int],
        moments: Sequence[int],
        vs: Sequence[int],
    ) -> None:
        """Takes for each layer an index of ``KINDS``, its number of elements and the addresses."""

    def overlap(self) -> tuple[int, int] | None:
        """Returns two layers of which one is written to where the other lies."""

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
