"""Computes and prints the cost of a step with sharded weights on many devices.

It prints the tables of docs/scale.md.

Usage::

    python benchmarks/cost_at_scale.py

It measures nothing. docs/scale.md explains the constants and their sources.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

DEVICES = (8, 64, 1024, 16384)
BANDWIDTH = 4.8e12  # bytes a second of an H200, according to its maker
HOP = 15e-6  # assumed seconds of a small message from one device to the next
# Bytes that a step moves for each float32 weight. NovoGrad reads g for the squared norm; the linear
# pass reads g, m, w and writes m, w. AdamW reads w, g, m, v and writes w, m, v.
NOVOGRAD, ADAMW = 4 + 20, 28


class Transformer(NamedTuple):
    """A decoder with gated feed-forward layers and a separate output layer."""

    name: str
    layers: int
    width: int
    keys: int
    hidden: int
    vocabulary: int

    def matrices(self) -> list[tuple[int, int]]:
        """Returns the shapes (rows, columns) of all matrices."""
        w, k, h = self.width, self.keys, self.hidden
        one = [(w, w), (k, w), (k, w), (w, w), (h, w), (h, w), (w, h)]
        return self.layers * one + 2 * [(self.vocabulary, w)]

    def weights(self) -> int:
        """Returns the number of weights, including two norms in each layer and a last norm."""
        return sum(map(math.prod, self.matrices())) + self.norms() * self.width

    def norms(self) -> int:
        """Returns the number of vectors."""
        return 2 * self.layers + 1

    def tensors(self) -> int:
        """Returns the number of tensors."""
        return len(self.matrices()) + self.norms()

    def rows(self) -> int:
        """Returns the number of second moments with ``Rows``."""
        return sum(rows for rows, _ in self.matrices()) + self.norms() * self.width


MODELS = (
    Transformer("7 B", 32, 4096, 4096, 11008, 32000),
    Transformer("70 B", 80, 8192, 1024, 28672, 32000),
    Transformer("1 T", 128, 24576, 4096, 86016, 256000),
)


def state() -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table of state sizes."""
    yield "weights", "devices", "AdamW", "NovoGrad", "second moment (v)", "v with `Rows`"
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
    """Yields the rows of the table of step times."""
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
    """Returns a number of bytes with a unit: a power of 1,000.

    Example:
        >>> size(12_345), size(2e9)
        ('12.3 kB', '2 GB')
    """
    power = min(int(math.log10(max(number, 1)) / 3), 4)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def markdown(rows: Iterator[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *body])


if __name__ == "__main__":
    print(markdown(state()), markdown(step()), sep="\n\n")
