"""The results of a comparison in words."""

import statistics
from collections.abc import Sequence

from novograd.compare.analysis import Analysis, Row, Summary
from novograd.compare.optimizers import find


def remarks(analysis: Analysis) -> list[str]:
    """Writes the conclusions, the cautions and the protocol of a comparison.

    Returns:
        Sentences to print below the tables.
    """
    said = [f"{label(row)}: failed: {row['error']}." for row in analysis.ended("failed")]
    said += [*verdict(analysis), *cautions(analysis), protocol(analysis)]
    about = analysis.results["task"]["about"]
    return [*said, about] if about else said


def verdict(analysis: Analysis) -> list[str]:
    """Writes which differences are shown, in at most three sentences."""
    ahead: dict[str, list[str]] = {}
    for pair in analysis.pairs:
        if pair.outcome == "ahead":
            ahead.setdefault(pair.better.title, []).append(pair.worse.title)
    unclear = sum(pair.outcome == "no difference shown" for pair in analysis.pairs)
    reasons = list(dict.fromkeys(pair.why_not for pair in analysis.pairs if pair.why_not))
    said = []
    if ahead:
        parts = (f"{better} is ahead of {listed(others)}" for better, others in ahead.items())
        said.append(f"{'; '.join(parts)}.")
    if unclear:
        count = len(analysis.pairs)
        which = f"the other {unclear} of {count} pairs" if unclear < count else "any pair"
        said.append(f"No difference is shown for {which}.")
    if reasons:
        said.append(f"Some pairs are not compared: {'; '.join(reasons)}.")
    return said


def listed(names: Sequence[str]) -> str:
    """Joins names with commas and "and".

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def cautions(analysis: Analysis) -> list[str]:
    """Writes what limits the conclusions."""
    results = analysis.results
    said = []
    if results["status"] == "interrupted":
        said.append(f"Interrupted: {len(results['runs'])} of {results['planned']} runs ended.")
    diverged = [label(row) for row in analysis.ended("diverged")]
    if diverged:
        said.append(f"Diverged: {'; '.join(diverged)}.")
    at_end = [one.title for one in analysis.summaries if _at_end(one)]
    if at_end:
        said.append(
            f"The chosen learning rate is at an end of the search for {listed(at_end)}; a rate "
            "outside the search might be better."
        )
    if not results["task"]["validated"]:
        said.append(
            "The task has no validation data, so the same test data chose the learning rates and "
            "measured the results, which are therefore too good."
        )
    return said


def _at_end(one: Summary) -> bool:
    rates = [point.rate for point in one.points]
    return len(rates) > 1 and one.judged.rate in (rates[0], rates[-1])


def protocol(analysis: Analysis) -> str:
    """Describes how the optimizers were compared."""
    settings = analysis.results["settings"]
    choice = "the best rate was chosen"
    if not settings["quick"]:
        choice = "two more seeds at the two best rates chose between them"
    return (
        f"Search on validation data: one seed, {_rates(analysis)}; {choice}. Then "
        f"{settings['seeds']} other seeds at the chosen rate were measured on test data. Every run "
        f"has {settings['steps']} steps and the {settings['schedule']} schedule. Differences are "
        "taken seed by seed. A difference is shown if Student's paired t-test, with Holm's "
        "correction for the number of pairs, finds it at 95 %."
    )


def _rates(analysis: Analysis) -> str:
    """Describes how many learning rates were tried."""
    results = analysis.results
    rates: dict[str, set[float]] = {name: set() for name in results["optimizers"]}
    for row in results["runs"]:
        rates[row["optimizer"]].add(row["learning_rate"])
    counts = {len(tried) for tried in rates.values()}
    low, high = min(counts), max(counts)
    return f"{low} learning rates" if low == high else f"{low} to {high} learning rates"


def label(row: Row) -> str:
    """Writes the name of a run.

    Example:
        >>> label({"optimizer": "adamw", "learning_rate": 0.003, "seed": 0})
        'AdamW, learning rate 0.003, seed 0'
    """
    title = find(row["optimizer"]).title
    return f"{title}, learning rate {row['learning_rate']:g}, seed {row['seed']}"


def spread(scores: Sequence[float]) -> str:
    """Writes the median of scores with their range.

    Example:
        >>> spread([0.7, 0.9, 0.8]), spread([0.7])
        ('0.800 (0.700-0.900)', '0.700')
    """
    median = f"{statistics.median(scores):.3f}"
    return median if len(scores) == 1 else f"{median} ({min(scores):.3f}-{max(scores):.3f})"


def steps_to_target(one: Summary) -> str:
    """Writes the number of steps to the target."""
    return "-" if one.steps_to_target is None else f"{one.steps_to_target:g}"


def good_rates(one: Summary) -> str:
    """Writes the range of learning rates that are as good as the best, and its width as a factor.

    Says "or wider" or ">=" if the range reaches an end of the search.
    """
    if one.as_good is None:
        return "-"
    low, high = one.as_good
    if low == high:
        return f"{low:g} or wider" if one.open_ended else f"only {low:g}"
    return f"{low:g}-{high:g} ({'>=' if one.open_ended else ''}{high / low:.3g}x)"
