"""What the results of a comparison say, in words."""

from novograd.compare.analysis import Analysis, Pair, Point, Row, Summary
from novograd.compare.optimizers import OPTIMIZERS


def remarks(analysis: Analysis) -> list[str]:
    """Says what the tables allow to conclude, and what not.

    Returns:
        Sentences to print under the tables.
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
    """Says of each pair of optimizers which is ahead, or that they tie; the best pairs first."""
    return [sentence(pair, analysis.metric) for pair in analysis.pairs]


def sentence(pair: Pair, metric: str) -> str:
    """Says which of two optimizers is ahead, or that they tie.

    Args:
        pair: The two.
        metric: What they are compared by.
    """
    better, worse = pair.better.title, pair.worse.title
    match pair.outcome:
        case "ahead":
            ahead = abs(pair.better.best.median - pair.worse.best.median)
            return f"{better} is ahead of {worse} by {ahead:.3g} {metric}."
        case "tie":
            return f"{better} and {worse} tie: their ranges over seeds overlap."
        case "not ranked":
            return f"{better} and {worse} are not ranked: one seed has no spread."


def interruption(analysis: Analysis) -> list[str]:
    """Says how far a comparison came that was interrupted."""
    results = analysis.results
    if results["status"] != "interrupted":
        return []
    return [f"Interrupted: {len(results['runs'])} of {results['planned']} runs ended."]


def search_ends(analysis: Analysis) -> list[str]:
    """Says which optimizers do best at an end of their search."""
    return [
        f"{one.title}: the best learning rate is at the end of the search; it might do better "
        "beyond."
        for one in analysis.summaries
        if len(one.points) > 1 and one.best in (one.points[0], one.points[-1])
    ]


def protocol(analysis: Analysis) -> str:
    """Says what each optimizer was given."""
    settings = analysis.results["settings"]
    rates = {name: len(rates) for name, rates in settings["learning_rates"].items()}
    each = (
        f"{next(iter(rates.values()))} learning rates each"
        if len(set(rates.values())) == 1
        else ", ".join(f"{OPTIMIZERS[name].title} {count}" for name, count in rates.items())
        + " learning rates"
    )
    where = "the best" if settings["quick"] else "the best, its neighbours and the default"
    return (
        f"Search: {each} with one seed, then {settings['seeds']} seeds at {where}; every run "
        f"{settings['steps']} steps, {settings['schedule']} schedule. The same test data choose "
        "the learning rate and judge it, for all alike."
    )


def label(row: Row) -> str:
    """Names a run.

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
    """Writes how soon an optimizer reached the target."""
    return "-" if one.steps_to_target is None else f"{one.steps_to_target:g}"


def robust(one: Summary) -> str:
    """Writes the range of learning rates that are as good as the best.

    With a plus if it may go on beyond the search.
    """
    low, high = one.as_good
    return f"{low:g}-{high:g}, x{high / low:.3g}{'+' if one.open_ended else ''}"
