"""Computes what a step of sharded weights costs on many devices, and prints it.

The tables are those of docs/scale.md.

Usage::

    python benchmarks/cost_at_scale.py

Nothing is measured here: the page says what the constants are and where they come from.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

DEVICES = (8, 64, 1024, 16384)
BANDWIDTH = 4.8e12  # bytes a second: what the makers state for an H200
HOP = 15e-6  # seconds that a small message takes from one device to the next, assumed
# Bytes that a step moves for each float32 weight. NovoGrad: g for the norm; g, m, w read and m, w
# written for the pass. AdamW: w, g, m, v read and w, m, v written.
NOVOGRAD, ADAMW = 4 + 20, 28


class Transformer(NamedTuple):
    """A decoder with gated feed-forward layers and an output layer of its own."""

    name: str
    layers: int
    width: int
    keys: int
    hidden: int
    vocabulary: int

    def matrices(self) -> list[tuple[int, int]]:
        """Returns the shapes of all matrices, (rows, columns)."""
        w, k, h = self.width, self.keys, self.hidden
        one = [(w, w), (k, w), (k, w), (w, w), (h, w), (h, w), (w, h)]
        return self.layers * one + 2 * [(self.vocabulary, w)]

    def weights(self) -> int:
        """Returns how many weights there are, with two norms in each layer and a last one."""
        return sum(map(math.prod, self.matrices())) + self.norms() * self.width

    def norms(self) -> int:
        """Returns how many vectors there are."""
        return 2 * self.layers + 1

    def tensors(self) -> int:
        """Returns how many tensors there are."""
        return len(self.matrices()) + self.norms()

    def rows(self) -> int:
        """Returns how many second moments there are with ``Rows``."""
        return sum(rows for rows, _ in self.matrices()) + self.norms() * self.width


MODELS = (
    Transformer("7 B", 32, 4096, 4096, 11008, 32000),
    Transformer("70 B", 80, 8192, 1024, 28672, 32000),
    Transformer("1 T", 128, 24576, 4096, 86016, 256000),
)


def state() -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table of state."""
    yield "weights", "devices", "AdamW", "NovoGrad", "of it v", "v with `Rows`"
    for model in MODELS:
        for devices in DEVICES:
            share = 4 * model.weights() / devices
            yield (
                model.name,
                f"{devices:,}",
                size(2 * share),
                size(share + 4 * model.tensors()),
                size(4 * model.tensors()),
                size(4 * model.rows() / devices),
            )


def step() -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table of a step."""
    yield (
        *("weights", "devices", "AdamW moves", "in ms", "NovoGrad moves", "in ms"),
        *("collective", "hops", "in ms", "NovoGrad / AdamW"),
    )
    for model in MODELS:
        for devices in DEVICES:
            share = model.weights() / devices
            hops = 2 * math.ceil(math.log2(devices))
            adamw, ours = (bytes_ * share / BANDWIDTH for bytes_ in (ADAMW, NOVOGRAD))
            wait = hops * HOP
            yield (
                *(model.name, f"{devices:,}", size(ADAMW * share), f"{1e3 * adamw:.2f}"),
                *(size(NOVOGRAD * share), f"{1e3 * ours:.2f}"),
                *(size(16 * model.tensors()), str(hops), f"{1e3 * wait:.2f}"),
                f"{(ours + wait) / adamw:.2f}",
            )


def size(number: float) -> str:
    """Returns a number of bytes in units of 1,000.

    Example:
        >>> size(12_345), size(2e9)
        ('12.3 kB', '2 GB')
    """
    power = min(int(math.log10(max(number, 1)) / 3), 4)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def markdown(rows: Iterator[tuple[str, ...]]) -> str:
    """Returns a table."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *body])


if __name__ == "__main__":
    print(markdown(state()), markdown(step()), sep="\n\n")
