"""The results of a comparison in words."""

from novograd.compare.analysis import Analysis, Pair, Point, Row, Summary, searched
from novograd.compare.optimizers import OPTIMIZERS


def remarks(analysis: Analysis) -> list[str]:
    """Writes the conclusions, the cautions and the protocol of a comparison.

    Returns:
        Sentences to print below the tables.
    """
    said = interruption(analysis)
    said += [f"{label(row)}: failed: {row['error']}." for row in analysis.ended("failed")]
    diverged = [label(row) for row in analysis.ended("diverged")]
    if diverged:
        said.append(f"Diverged: {'; '.join(diverged)}.")
    said += ranking(analysis)
    said += search_ends(analysis)
    said.append(protocol(analysis))
    about = analysis.results["task"]["about"]
    return [*said, about] if about else said


def ranking(analysis: Analysis) -> list[str]:
    """Compares each pair of optimizers in a sentence, the best pairs first."""
    return [sentence(pair, analysis.metric) for pair in analysis.pairs]


def sentence(pair: Pair, metric: str) -> str:
    """Compares two optimizers in a sentence.

    Args:
        pair: The two optimizers.
        metric: The name of the metric.
    """
    better, worse = pair.better.title, pair.worse.title
    match pair.outcome:
        case "ahead":
            ahead = abs(pair.better.best.median - pair.worse.best.median)
            return f"{better} is ahead of {worse} by {ahead:.3g} {metric}."
        case "tie":
            return f"{better} and {worse} tie: their ranges over seeds overlap."
        case "not ranked":
            return f"{better} and {worse} are not ranked: at least two seeds are needed."


def interruption(analysis: Analysis) -> list[str]:
    """Says how many runs ended before an interruption."""
    results = analysis.results
    if results["status"] != "interrupted":
        return []
    return [f"Interrupted: {len(results['runs'])} of {results['planned']} runs ended."]


def search_ends(analysis: Analysis) -> list[str]:
    """Says which optimizers have their best learning rate at an end of the search."""
    return [
        f"{one.title}: the best learning rate is at an end of the search; a rate outside the "
        "search might be better."
        for one in analysis.summaries
        if len(one.points) > 1 and one.best in (one.points[0], one.points[-1])
    ]


def protocol(analysis: Analysis) -> str:
    """Describes how the optimizers were compared."""
    settings = analysis.results["settings"]
    tried = searched(analysis.results)
    rates = {
        name: len({*rates, *tried[name]}) for name, rates in settings["learning_rates"].items()
    }
    each = (
        f"{next(iter(rates.values()))} learning rates per optimizer"
        if len(set(rates.values())) == 1
        else "learning rates per optimizer: "
        + ", ".join(f"{OPTIMIZERS[name].title} {count}" for name, count in rates.items())
    )
    where = "the best rate"
    if not settings["quick"]:
        where += ", its neighbours and the default rate"
    return (
        f"Search with one seed: {each}. Then {settings['seeds']} seeds at {where}. Every run has "
        f"{settings['steps']} steps and the {settings['schedule']} schedule. For every optimizer, "
        "the same test data choose the learning rate and measure the result."
    )


def label(row: Row) -> str:
    """Writes the name of a run.

    Example:
        >>> label({"optimizer": "adamw", "learning_rate": 0.003, "seed": 0})
        'AdamW, learning rate 0.003, seed 0'
    """
    title = OPTIMIZERS[row["optimizer"]].title
    return f"{title}, learning rate {row['learning_rate']:g}, seed {row['seed']}"


def spread(point: Point) -> str:
    """Writes a median with its range over the seeds.

    Example:
        >>> spread(Point(0.1, tuple({"metrics": {"accuracy": x}} for x in (0.7, 0.8, 0.9)), 3))
        '0.800 (0.700-0.900)'
    """
    low, high = point.worst_to_best
    return f"{point.median:.3f} ({low:.3f}-{high:.3f})"


def at_default(one: Summary) -> str:
    """Writes the median at the default learning rate, and the rate."""
    return f"{one.default.median:.3f} ({one.default.rate:g})" if one.default else "-"


def steps_to_target(one: Summary) -> str:
    """Writes the number of steps to the target."""
    return "-" if one.steps_to_target is None else f"{one.steps_to_target:g}"


def robust(one: Summary) -> str:
    """Writes the range of learning rates that are as good as the best, and its width as a factor.

    Says "or wider" or ">=" if the range reaches an end of the search.
    """
    low, high = one.as_good
    if low == high:
        return f"{low:g} or wider" if one.open_ended else f"only {low:g}"
    return f"{low:g}-{high:g} ({'>=' if one.open_ended else ''}{high / low:.3g}x)"
