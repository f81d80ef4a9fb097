"""Paired differences between the scores of two optimizers, and how sure they are."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Attributes:
        mean: The mean.
        low: The lower end of the 95 % confidence interval of the mean.
        high: Its upper end.
        p: The p-value of Student's paired t-test: how often a mean at least as far from 0 would
            occur if there were no difference.
    """

    mean: float
    low: float
    high: float
    p: float


def difference(pairs: Sequence[tuple[float, float]], negligible: float = 0.0) -> Difference:
    """Returns the mean difference between the first and the second numbers of pairs.

    Args:
        pairs: At least two pairs.
        negligible: If all differences are equal, they have no spread to compare with. Then a
            difference that is larger than this number is certain (p = 0), and a smaller one proves
            nothing (p = 1).

    Example:
        >>> found = difference([(0.8, 0.7), (0.9, 0.7), (0.8, 0.5)])
        >>> f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f}), p = {found.p:.3f}"
        '0.200 (-0.048 to 0.448), p = 0.074'
    """
    differences = [one - other for one, other in pairs]
    mean = statistics.fmean(differences)
    freedom = len(differences) - 1
    error = statistics.stdev(differences) / len(differences) ** 0.5
    if error <= 1e-12 * abs(mean):  # equal, except for rounding
        return Difference(mean, mean, mean, 0.0 if abs(mean) > negligible else 1.0)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for the number of tests.

    If no true difference exists, the chance that any corrected p-value is below 0.05 is at most
    5 %. (Holm, "A simple sequentially rejective multiple test procedure", 1979.)

    Args:
        p_values: The p-values of all tests.

    Returns:
        The corrected p-values, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
