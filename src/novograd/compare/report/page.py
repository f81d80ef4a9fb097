"""Renders the page of the report from an analysis and its figures."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from novograd.compare import tables
from novograd.compare.analysis import Analysis, Pair, Row
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.report.figures import INK, PAPER
from novograd.compare.runner import FRAMEWORKS
from novograd.compare.sentences import (
    interruption,
    label,
    protocol,
    search_ends,
    sentence,
    spread,
)

CAPTIONS = {
    "learning-curves": "Each optimizer at its best learning rate. Line: median over the seeds; "
    "band: lowest to highest.",
    "training-loss": "The same runs, on the training batches.",
    "learning-rates": "Marks: median; bars: lowest to highest, where there are several seeds. "
    "Marks at the same rate are drawn slightly apart.",
    "state": "Size of the data that the optimizer keeps between steps, at its best learning rate.",
    "time": "Median time of the optimizer's update in a step. A run has one thread.",
}


class Verdict(NamedTuple):
    """The comparison of two optimizers.

    Attributes:
        tag: The outcome in a word or two.
        text: The outcome in a sentence.
    """

    tag: str
    text: str


class Drawing(NamedTuple):
    """A figure on the page.

    Attributes:
        svg: The figure, ready to insert into the page.
        caption: How to read it.
    """

    svg: Markup
    caption: str


class Failure(NamedTuple):
    """Runs that failed with the same error.

    Attributes:
        error: The exception in one line.
        traceback: The full traceback.
        runs: The names of the runs.
    """

    error: str
    traceback: str
    runs: list[str]


def render(analysis: Analysis, drawings: Mapping[str, str]) -> str:
    """Returns the page.

    Args:
        analysis: The analysis of a comparison.
        drawings: The figures by name, as SVG.
    """
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    template = files("novograd.compare.report").joinpath("page.html").read_text(encoding="utf-8")
    results = analysis.results
    figures = {name: drawing(name, svg) for name, svg in drawings.items()}
    metric, pairs = analysis.metric, analysis.pairs
    return environment.from_string(template).render(
        results=results,
        framework=FRAMEWORKS[results["settings"]["framework"]].title,
        title=results["task"]["title"] or results["settings"]["task"],
        optimizers=[OPTIMIZERS[name] for name in results["optimizers"]],
        colours={optimizer.title: optimizer.colour for optimizer in OPTIMIZERS.values()},
        metric=metric,
        leader=_leader(analysis),
        novograd=[verdict(pair, metric) for pair in pairs if _has_novograd(pair)],
        others=[verdict(pair, metric) for pair in pairs if not _has_novograd(pair)],
        cautions=[*interruption(analysis), *_counts(analysis), *search_ends(analysis)],
        quality=tables.quality(analysis),
        cost=tables.cost(analysis),
        target=analysis.target,
        charts=[shown for name, shown in figures.items() if name in CAPTIONS],
        segmentations=[shown for name, shown in figures.items() if name not in CAPTIONS],
        settings=tables.settings(analysis),
        rates=tables.rates(analysis),
        protocol=protocol(analysis),
        diverged=analysis.ended("diverged"),
        label=label,
        failures=failures(analysis.ended("failed")),
        machine=machine(analysis),
    )


def verdict(pair: Pair, metric: str) -> Verdict:
    """Compares two optimizers; the tag is NovoGrad's outcome if it is one of them."""
    lost = pair.worse.is_novograd and not pair.better.is_novograd
    tag = "behind" if lost and pair.outcome == "ahead" else pair.outcome
    return Verdict(tag, sentence(pair, metric))


def drawing(name: str, svg: str) -> Drawing:
    """Prepares a figure for the page and gives it the page's text and background colours.

    Args:
        name: The name of the figure.
        svg: The figure.

    Example:
        >>> print(drawing("state", '<?xml?><svg width="9"><a style="fill: #24292f"/></svg>').svg)
        <svg role="img" aria-label="state" width="9"><a style="fill: currentColor"/></svg>
    """
    spoken = name.replace("-", " ")
    inline = svg[svg.index("<svg ") :].replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    named = inline.replace("<svg ", f'<svg role="img" aria-label="{spoken}" ', 1)
    return Drawing(Markup(named), CAPTIONS.get(name, ""))


def failures(failed: Iterable[Row]) -> list[Failure]:
    """Groups the runs that failed with the same error.

    Example:
        >>> run = {"optimizer": "adam", "learning_rate": 0.1, "seed": 0, "error": "KeyError: 1"}
        >>> failures([run, run | {"seed": 1}])[0].runs
        ['Adam, learning rate 0.1, seed 0', 'Adam, learning rate 0.1, seed 1']
    """
    found: dict[tuple[str, str], list[str]] = {}
    for row in failed:
        found.setdefault((row["error"], row.get("traceback", "")), []).append(label(row))
    return [Failure(*error, runs) for error, runs in found.items()]


def machine(analysis: Analysis) -> dict[str, str]:
    """Describes the software and the machine of the runs."""
    versions = {
        name: version
        for row in analysis.ended("finished")
        for name, version in row["versions"].items()
    }
    results = analysis.results
    about = results["machine"]
    return {
        "novograd-optimizer": results["novograd"],
        **versions,
        "python": about["python"],
        "system": about["system"],
        "processor": f"{about['processor']}, {about['cpus']} CPUs",
        "device": about["device"],
        "runs at once": f"{results['jobs']}, one thread each",
        "date": results["date"],
    }


def _leader(analysis: Analysis) -> str | None:
    """Says which optimizer has the best median, and with which optimizers it ties."""
    if not analysis.summaries:
        return None
    best = analysis.pairs[0].better if analysis.pairs else analysis.summaries[0]
    against = [pair for pair in analysis.pairs if pair.better is best]
    tied = [pair.worse.title for pair in against if pair.outcome == "tie"]
    but = f", but ties with {' and with '.join(tied)}" if tied else ""
    if any(pair.outcome == "not ranked" for pair in against):
        but += "; there are too few seeds to rank all optimizers"
    return f"{best.title} has the best median: {analysis.metric} {spread(best.best)}{but}."


def _has_novograd(pair: Pair) -> bool:
    return pair.better.is_novograd or pair.worse.is_novograd


def _counts(analysis: Analysis) -> list[str]:
    """Says how many runs diverged or failed."""
    counts = {status: len(analysis.ended(status)) for status in ("diverged", "failed")}
    return [
        f"{count} of {len(analysis.results['runs'])} runs {status}; see below."
        for status, count in counts.items()
        if count
    ]
