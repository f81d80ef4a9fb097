"""The extension module of ``csrc/module.cpp``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

KINDS: tuple[tuple[str, str, str], ...]
"""Dtypes of weights, gradient and momentum buffer for which there are kernels."""

class Tensors:
    """Addresses of tensors, which must stay valid as long as this object is used."""

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
        rows: Sequence[tuple[int, int, int] | None] | None = None,
        block_scales: Sequence[int | None] | None = None,
        counts: Sequence[int | None] | None = None,
        stochastic: Sequence[bool] | None = None,
    ) -> None:
        """Describes tensors; each list has one item for each tensor.

        Args:
            kinds: Indices into ``KINDS``.
            grids: Where the layers lie, see ``novograd.native.grid``. A complex number counts as
                two elements.
            scales: Factors of the normalised gradients.
            weights: Addresses of the weights.
            gradients: Addresses of the gradients.
            moments: Addresses of the momentum buffers.
            vs: Addresses of the second moments: contiguous, one number for each layer, float64 for
                float64 weights, else float32.
            squares: Addresses of the squared norms: contiguous, one float64 for each layer; None or
                0 if there are none. If given, ``step`` does not compute the squared norms, and
                also updates the second moment of a layer that has no elements here.
            rows: For each tensor that is rounded at random, the length of its rows, the number of
                its first element in the whole tensor, and the distance of the numbers of the first
                elements of two neighbouring rows. The rows of a momentum buffer in int8 consist of
                blocks, see ``novograd.quantized``.
            block_scales: Addresses of the scales of momentum buffers in int8: float32.
            counts: Addresses of the numbers of earlier steps of tensors that are rounded at random:
                one float32 each.
            stochastic: Whether bfloat16 weights are rounded at random, see ``novograd.rounding``.

        Raises:
            ValueError: If the lists differ in length; if a momentum buffer in int8 lacks one of
                ``rows``, ``block_scales`` and ``counts``; or if ``stochastic`` weights are not in
                bfloat16, or lack ``rows`` or ``counts``.
        """

    def at(self, addresses: np.ndarray) -> Tensors:
        """Returns the same tensors at other addresses.

        Args:
            addresses: int64, of shape ``(7, tensors)``: the addresses of the weights, gradients,
                momentum buffers, second moments, squared norms, scales of blocks, and numbers of
                earlier steps. 0 stands for one that is not given.

        Raises:
            ValueError: If there is not a column for every tensor.
        """

    def overlap(self) -> tuple[int, int] | None:
        """Returns the indices of two tensors where a step writes to the memory of the other."""

    def square_sums(self, threads: int) -> None:
        """Writes the squared norms to ``squares``, without the GIL.

        Raises:
            ValueError: If a tensor has no address in ``squares``. Nothing is changed in this case.
        """

    def step(self, rule: Sequence[float], threads: int) -> None:
        """Takes a step in place, without the GIL; ``novograd.native.arguments`` makes ``rule``."""

def described(
    exchange: object, types: tuple[type, ...], columns: Sequence[list[Any] | None]
) -> tuple[bytes, bytes]:
    """Reads facts about many tensors of a framework at once, without a copy or a synchronisation.

    Args:
        exchange: The attribute ``__dlpack_c_exchange_api__`` of the class of the tensors.
        types: The types that tensors may have.
        columns: Lists of tensors of the same length. None stands for a missing tensor or column.

    Returns:
        Bytes that are equal if and only if all types, devices, dtypes, shapes and strides are. And
        the addresses, column by column, as 64-bit integers in the byte order of this machine; 0 for
        missing tensors.

    Raises:
        TypeError: If a tensor has another type.
        RuntimeError: If the exchange API has another major version, or cannot describe tensors.
            torch also raises it for a tensor that DLPack cannot describe.
        ValueError: If the lists differ in length.
    """

def traffic(*, weights: int, gradient: int, moment: int, size: int, threads: int) -> None:
    """Moves as many bytes as a step of float32 layers with ``size`` weights must move."""

def has_quantised_pass(*, grid: tuple[int, int, int, int], row: int) -> bool:
    """Whether a step supports layers and rows of a momentum buffer in int8.

    Args:
        grid: Where the layers lie, see ``novograd.native.grid``.
        row: The length of the rows of blocks.
    """

def instruction_sets() -> list[str]:
    """Returns the instruction sets of the kernels that this machine can run, the best last."""

def instruction_set() -> str:
    """Returns the instruction set in use: the best, or the one that NOVOGRAD_ISA names."""

def xla_step() -> object:
    """Returns a capsule with the XLA handler."""
