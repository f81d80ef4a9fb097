"""What a comparison trains: a task, built in or the user's own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

Arrays = Any  # an array, or a tuple of arrays
Batch = tuple[Arrays, Arrays]  # what goes into the model, and what the loss compares it with


class Segmentation(NamedTuple):
    """Pictures of labels beside the truth.

    Attributes:
        images: What was labelled, any real dtype, shape ``(pictures, height, width)``.
        truth: The true labels, uint8, same shape; 0 is background.
        predicted: The labels found, uint8, same shape.
        classes: Names of the labels 1, 2, and so on, if they have any.
    """

    images: NDArray[Any]
    truth: NDArray[Any]
    predicted: NDArray[Any]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its data, and how it is judged: what ``novograd compare`` trains.

    A file of your own makes one and calls it ``task``; ``novograd compare my_task.py`` compares
    optimizers on it. The model is a ``torch.nn.Module`` or a Keras model.

    Attributes:
        model: Builds the model from a seed: the same seed must give the same weights.
        batches: Gives training batches from a seed, without end: pairs of NumPy arrays (or of
            tuples of them), what goes into the model and what the loss compares its output with.
        test: Gives the batches that the model is judged by, the same in each call.
        loss: Takes the model's output and the targets, tensors of the framework, and returns the
            mean loss, a scalar tensor.
        metric: Takes outputs and targets of all test batches, NumPy arrays joined along axis 0, and
            returns numbers by name. The first is the one that optimizers are compared by.
        title: A line that says what is learnt.
        about: Sentences on what the task can tell, and what it cannot.
        higher_is_better: Whether the first metric is to be high.
        margin: Differences of the first metric up to this are of no practical use; it defines the
            range of learning rates that are "as good as the best".
        steps: Training steps of a run, unless the command line says otherwise.
        learning_rates: The middle of the search for some optimizers, by their names on the command
            line, where the usual one does not suit.
        segmentation: For models that label pixels: from inputs, outputs and targets of the test
            batches, the pictures that the report shows.

    Example:
        >>> import numpy as np
        >>> def batches(seed):
        ...     random = np.random.default_rng(seed)
        ...     while True:
        ...         x = random.standard_normal((8, 2), dtype=np.float32)
        ...         yield x, x.sum(1, keepdims=True)
        >>> task = Task(
        ...     model=lambda seed: ...,  # a torch.nn.Module or a keras.Model
        ...     batches=batches,
        ...     test=lambda: [next(batches(seed=1000))],
        ...     loss=lambda output, target: ((output - target) ** 2).mean(),
        ...     metric=lambda output, target: {"squared error": ((output - target) ** 2).mean()},
        ...     higher_is_better=False,
        ... )
    """

    model: Callable[[int], Any]
    batches: Callable[[int], Iterable[Batch]]
    test: Callable[[], Iterable[Batch]]
    loss: Callable[[Any, Any], Any]
    metric: Callable[[Any, Any], Mapping[str, float]]
    title: str = ""
    about: str = ""
    higher_is_better: bool = True
    margin: float = 0.01
    steps: int = 200
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    segmentation: Callable[[Any, Any, Any], Segmentation] | None = None
