"""The class of tasks that a comparison trains, built in or the user's own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

Arrays = Any  # an array, or a tuple of arrays
Batch = tuple[Arrays, Arrays]  # inputs of the model, and targets


class Segmentation(NamedTuple):
    """Images with their true labels and the predicted labels.

    Attributes:
        images: The images, any real dtype, shape ``(pictures, height, width)``.
        truth: The true labels, uint8, same shape; 0 is background.
        predicted: The predicted labels, uint8, same shape.
        classes: Names of the labels 1, 2, and so on; may be empty.
    """

    images: NDArray[Any]
    truth: NDArray[Any]
    predicted: NDArray[Any]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task for ``novograd compare``: a model, its data, its loss and its metric.

    Define a variable ``task`` of this class in your own file; ``novograd compare my_task.py`` then
    compares optimizers on the task. The model is a ``torch.nn.Module``, a Keras model, an
    ``nnx.Module`` of Flax, or an ``eqx.Module`` of Equinox.

    Attributes:
        model: Builds the model from a seed: the same seed must give the same weights.
        batches: Yields training batches without end, from a seed. A batch is a pair: the inputs of
            the model, and the targets. Each is a NumPy array or a tuple of NumPy arrays.
        validation: Returns the batches on which each optimizer's learning rate is chosen, the same
            ones in each call. None: the rates are chosen on the test batches, and the report warns
            that its results are then too good. Default: None.
        test: Returns the batches that judge the optimizers, the same ones in each call. They share
            no example with the training and validation batches.
        loss: Takes the model's output and the targets, tensors of the framework, and returns the
            mean loss, a scalar tensor.
        metric: Takes outputs and targets of all batches of one part, validation or test: NumPy
            arrays joined along axis 0. Returns numbers by name. The first number compares the
            optimizers.
        title: One line that names the task. Default: empty.
        about: Sentences about what results on this task can and cannot show. Default: empty.
        higher_is_better: Whether a higher first metric is better. Default: True.
        margin: The largest difference of the first metric that does not matter in practice. It
            defines the range of learning rates that are "as good as the best", and is the unit of
            effect sizes. None: the report leaves out everything that needs a margin. Default: None.
        steps: Training steps of a run; an option of the command line can change it. Default: 200.
        learning_rates: The middle of the search by optimizer, where the usual middle is not
            suitable. The keys are the names on the command line. Default: empty.
        segmentation: For models that label pixels. Takes inputs, outputs and targets of the test
            batches, and returns the pictures for the report. None: the report has no pictures.
            Default: None.

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
        ...     validation=lambda: [next(batches(seed=1000))],
        ...     test=lambda: [next(batches(seed=1001))],
        ...     loss=lambda output, target: ((output - target) ** 2).mean(),
        ...     metric=lambda output, target: {"squared error": ((output - target) ** 2).mean()},
        ...     higher_is_better=False,
        ...     margin=0.01,
        ... )
    """

    model: Callable[[int], Any]
    batches: Callable[[int], Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]] | None = None
    test: Callable[[], Iterable[Batch]]
    loss: Callable[[Any, Any], Any]
    metric: Callable[[Any, Any], Mapping[str, float]]
    title: str = ""
    about: str = ""
    higher_is_better: bool = True
    margin: float | None = None
    steps: int = 200
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    segmentation: Callable[[Any, Any, Any], Segmentation] | None = None
