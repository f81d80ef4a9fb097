"""The oracle: NovoGrad in float64 NumPy, written from the published description alone.

The oracle shares no code with ``novograd.rule``, has no default hyperparameters and converts
everything to float64, so that it cannot share an error with the rule or with a framework. It
follows the formulas of NVIDIA Clara Train 3.1's ``ai4med.libs.optimizers.NovoGrad`` line by line.
README.md lists the decisions where that text is silent.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MOMENT_SEED = 0x9E3779B9
"""The seed of the random numbers that round a momentum buffer in 8 bits."""

WEIGHTS_SEED = 0x243F6A88
"""The seed of the random numbers that round bfloat16 weights."""


def step(
    weights: ArrayLike,
    moment: ArrayLike,
    second_moment: ArrayLike,
    gradient: ArrayLike,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    grad_averaging: bool,
    nesterov: bool,
    scale: float = 1.0,
    clip: float = np.inf,
) -> tuple[Array, Array, Array]:
    """Takes one step of one layer.

    Args:
        weights: ``w_{t-1}``, of any shape.
        moment: ``m_{t-1}``, the momentum buffer, of the same shape; zeros before the first step.
        second_moment: ``v_{t-1}``, a scalar; 0 means that there is no history.
        gradient: ``g_t``, of the same shape as the weights.
        learning_rate: ``lr_t``.
        beta1: Decay rate of the momentum buffer.
        beta2: Decay rate of the second moment.
        epsilon: Added to ``v_t`` inside the root.
        weight_decay: ``wd``.
        grad_averaging: Mode 2 of the document: ``1 - beta1`` multiplies what is added to the
            momentum buffer.
        nesterov: Whether the weights take Nesterov's look-ahead step.
        scale: Factor of the normalised gradient. The document does not have it.
        clip: The largest norm of the normalised gradient before it is multiplied by ``scale``. The
            document does not have it.

    Returns:
        ``(w_t, m_t, v_t)`` as new float64 arrays.

    Example:
        >>> w, m, v = step([1.0, 2.0], [0.0, 0.0], 0.0, [3.0, 4.0], learning_rate=0.5, beta1=0.9,
        ...                beta2=0.98, epsilon=0.0, weight_decay=0.0, grad_averaging=False,
        ...                nesterov=False)
        >>> w.round(6).tolist(), m.round(6).tolist(), float(v)
        ([0.7, 1.6], [0.3, 0.4], 25.0)
    """
    w, m, v, g = (np.array(x, dtype=np.float64) for x in (weights, moment, second_moment, gradient))
    squared_norm = np.sum(g * g)
    v = squared_norm if v == 0 else beta2 * v + (1 - beta2) * squared_norm
    root = np.sqrt(max(v, squared_norm / clip**2) + epsilon)
    # 0/0 if epsilon is 0 and all gradients so far were 0: such a layer does not move.
    normalised: Any = g / root if root > 0 else np.zeros_like(g)
    update = scale * normalised + weight_decay * w
    if grad_averaging:
        update = (1 - beta1) * update
    m = beta1 * m + learning_rate * update
    w = w - (beta1 * m + learning_rate * update if nesterov else m)
    return np.asarray(w), np.asarray(m), np.asarray(v)


def blocks(shape: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Yields the positions of the elements of each block of a momentum buffer in 8 bits.

    A position is an index of the flat array. The blocks are in the order of their scales.

    Example:
        >>> [positions.size for positions in blocks((2, 3, 100))]
        [128, 128, 44, 128, 128, 44]
    """
    axes = list(shape)
    row = axes.pop()
    while row < 128 and len(axes) > 1:
        row *= axes.pop()
    for start in range(0, int(np.prod(shape)), row):
        for first in range(start, start + row, 128):
            yield np.arange(first, min(first + 128, start + row))


def uniform(step: int, positions: NDArray[np.int64], seed: int) -> Array:
    """Returns the random numbers, in [0, 1), that round elements after ``step`` earlier steps.

    Args:
        step: The number of earlier steps.
        positions: The positions of the elements in the whole flat array.
        seed: ``MOMENT_SEED`` or ``WEIGHTS_SEED``.

    Example:
        >>> (65536 * uniform(7, np.arange(4), MOMENT_SEED)).tolist()
        [43240.0, 43665.0, 14055.0, 65066.0]
    """

    def mixed(x: Any) -> Any:
        x = ((x ^ (x >> 16)) * 0x21F0AAAD) % 2**32
        x = ((x ^ (x >> 15)) * 0xD35A2D97) % 2**32
        return x ^ (x >> 15)

    numbers = positions.astype(np.uint64)
    pairs = numbers // 2
    key = mixed(np.full(1, step ^ seed, np.uint64))
    words = mixed(pairs % 2**32 ^ mixed(pairs // 2**32 ^ key))
    return np.where(numbers % 2, words // 2**16, words % 2**16) / 2**16


def to_bfloat16(x: ArrayLike, random: ArrayLike) -> Array:
    """Rounds finite numbers to bfloat16, away from zero if the random number is large enough.

    Args:
        x: The numbers.
        random: A random number in [0, 1) for each, see ``uniform``.

    Example:
        >>> to_bfloat16([1.002, 1.002, -1.002], [0.5, 0.75, 0.75]).tolist()
        [1.0, 1.0078125, -1.0078125]
    """
    x, random = np.asarray(x, np.float64), np.asarray(random, np.float64)
    exponent = np.frexp(x)[1]
    # A bfloat16 has 8 binary digits; the smallest one is 2^-133.
    unit = 2.0 ** np.maximum(exponent - 8, -133)
    return np.copysign(unit * np.floor(np.abs(x) / unit + random), x)


def dequantised(q: ArrayLike, scales: ArrayLike) -> Array:
    """Returns a momentum buffer in 8 bits as float64.

    Example:
        >>> dequantised(np.ones((2, 3), np.int8), [[2.0], [4.0]]).tolist()
        [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]
    """
    q, scales = np.asarray(q, np.float64), np.asarray(scales, np.float64)
    moment = q.ravel().copy()
    for positions, scale in zip(blocks(q.shape), scales.ravel(), strict=True):
        moment[positions] *= scale
    return moment.reshape(q.shape)
