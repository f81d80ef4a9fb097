"""The task: predict the next character of English prose, Python's own documentation.

The text is Python 3.11's ``help`` topics, with each paragraph only once (``data/make_text.py``).
Some topics repeat parts of others; otherwise the test part would repeat the training part. The
three parts follow each other in the text.
"""

import lzma
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from novograd.compare.task import Task

CONTEXT, BATCH = 64, 16
TRAINING, GAP = 0.85, 1000  # fraction for training, unused characters after it

Excerpts = tuple[NDArray[np.int32], NDArray[np.int32]]  # characters, and the next characters


class Text(NamedTuple):
    """A text as the numbers of its characters.

    Attributes:
        training: The training part, int32.
        held_out: The validation and test parts, later in the text, int32.
        characters: Number of different characters.
    """

    training: NDArray[np.int32]
    held_out: NDArray[np.int32]
    characters: int


@cache
def load() -> Text:
    """Loads the text."""
    packed = files("novograd.compare.tasks").joinpath("data/text.txt.xz").read_bytes()
    text = np.frombuffer(lzma.decompress(packed).decode().encode("utf-32-le"), np.uint32)
    alphabet, numbers = np.unique(text, return_inverse=True)
    numbers = numbers.astype(np.int32)
    end = int(TRAINING * len(numbers))
    return Text(numbers[:end], numbers[end + GAP :], len(alphabet))


def excerpts(seed: int) -> Iterator[Excerpts]:
    """Draws excerpts of the training part without end, 16 at a time.

    Yields:
        Numbers of characters, and of the next characters, both of shape ``(16, 64)``.
    """
    windows = sliding_window_view(load().training, CONTEXT + 1)
    random = np.random.default_rng(seed)
    while True:
        drawn = windows[random.integers(0, len(windows), BATCH)]
        yield drawn[:, :-1], drawn[:, 1:]


def held_out() -> list[Excerpts]:
    """Returns the validation and test parts as consecutive excerpts, in four batches."""
    read = sliding_window_view(load().held_out, CONTEXT + 1)[::CONTEXT]
    return [(part[:, :-1], part[:, 1:]) for part in np.array_split(read, 4)]


def nats(logits: NDArray[np.floating], targets: NDArray[np.int32]) -> dict[str, float]:
    """Returns the mean cross-entropy per character, in nats."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    lost = np.log(np.exp(logits).sum(axis=-1)) - chosen
    return {"nats": float(lost.mean(dtype=np.float64))}


def _model(seed: int) -> Any:
    from novograd.compare.keras.networks import transformer

    return transformer(seed, load().characters, CONTEXT)


def _loss(logits: Any, targets: Any) -> Any:
    from novograd.compare.keras.losses import cross_entropy

    return cross_entropy(logits, targets)


TASK = Task(
    title="Predict the next character of English prose",
    about=(
        "A transformer of two layers and 117,000 weights reads 64 characters of Python's "
        "documentation and predicts each next character; lower is better. The task shows how "
        "optimizers perform on embeddings and attention, whose rows have gradients of different "
        "sizes. The network is small and the runs are short: language models are trained a "
        "thousand times longer."
    ),
    model=_model,
    batches=excerpts,
    validation=lambda: held_out()[:2],
    test=lambda: held_out()[2:],
    loss=_loss,
    metric=nats,
    higher_is_better=False,
    margin=0.05,
    steps=400,
)
