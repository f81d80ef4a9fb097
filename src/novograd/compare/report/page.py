"""The page of the report, of results and their figures."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.table import Table

from novograd.compare import display
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.report.figures import INK, PAPER
from novograd.compare.statistics import (
    Pair,
    Row,
    Summary,
    interruption,
    label,
    metric_name,
    of_status,
    pairs,
    protocol,
    search_ends,
    sentence,
    summaries,
    target,
)
from novograd.compare.training import WARMUP

FRAMEWORKS = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
CAPTIONS = {
    "learning-curves": "Each optimizer at its best learning rate. Line: median over the seeds; "
    "band: lowest to highest.",
    "training-loss": "The same runs, on the batches that they learn from.",
    "learning-rates": "Marks: median; bars: lowest to highest, where there are several seeds. "
    "Marks of the same rate are set a little apart.",
    "state": "What the optimizer keeps between steps, at its best learning rate.",
    "time": "Median of its own part of a step, with one thread.",
}


class Verdict(NamedTuple):
    """What there is to say of two optimizers.

    Attributes:
        tag: In a word.
        text: In a sentence.
    """

    tag: str
    text: str


class Drawing(NamedTuple):
    """A figure on the page.

    Attributes:
        svg: The figure, to be put into the page as it is.
        caption: How to read it.
    """

    svg: Markup
    caption: str


class Grid(NamedTuple):
    """A table.

    Attributes:
        columns: Their headers, each with whether it holds numbers.
        rows: The cells.
    """

    columns: list[tuple[str, bool]]
    rows: list[tuple[str, ...]]


class Failure(NamedTuple):
    """A way in which runs failed.

    Attributes:
        error: The exception in a line.
        traceback: All there is of it.
        runs: Which failed like this.
    """

    error: str
    traceback: str
    runs: list[str]


def render(results: Row, drawings: Mapping[str, str]) -> str:
    """Returns the page.

    Args:
        results: What ``novograd.compare.runner.compare`` returned.
        drawings: The figures by name, in SVG.
    """
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    template = files("novograd.compare.report").joinpath("page.html").read_text(encoding="utf-8")
    figures = {name: drawing(name, svg) for name, svg in drawings.items()}
    return environment.from_string(template).render(
        results=results,
        framework=FRAMEWORKS.get(results["settings"]["framework"], ""),
        title=results["task"]["title"] or results["settings"]["task"],
        optimizers=[OPTIMIZERS[name] for name in results["optimizers"]],
        colours={optimizer.title: optimizer.colour for optimizer in OPTIMIZERS.values()},
        metric=metric_name(results),
        leader=_leader(results),
        novograd=[verdict(pair, results) for pair in pairs(results) if _has_novograd(pair)],
        others=[verdict(pair, results) for pair in pairs(results) if not _has_novograd(pair)],
        cautions=[*interruption(results), *_counts(results), *search_ends(results)],
        quality=grid(display.quality_table(results)),
        cost=grid(display.cost_table(results)),
        target=target(results),
        charts=[shown for name, shown in figures.items() if name in CAPTIONS],
        segmentations=[shown for name, shown in figures.items() if name not in CAPTIONS],
        settings=grid(_settings(results)),
        rates=grid(_rates(results)),
        protocol=protocol(results),
        warmup=WARMUP,
        diverged=of_status(results, "diverged"),
        label=label,
        failures=failures(results),
        machine=machine(results),
    )


def verdict(pair: Pair, results: Row) -> Verdict:
    """Says of two optimizers which is ahead, tagged from NovoGrad's side if it is one of them."""
    text = sentence(pair, metric_name(results))
    lost = _is_novograd(pair.worse) and not _is_novograd(pair.better)
    return Verdict("behind" if lost and pair.outcome == "ahead" else pair.outcome, text)


def drawing(name: str, svg: str) -> Drawing:
    """Prepares a figure for the page, whose text and background colours it takes over.

    Args:
        name: Its name.
        svg: The figure.

    Example:
        >>> print(drawing("state", '<?xml?><svg width="9"><a style="fill: #24292f"/></svg>').svg)
        <svg role="img" aria-label="state" width="9"><a style="fill: currentColor"/></svg>
    """
    spoken = name.replace("-", " ")
    inline = svg[svg.index("<svg ") :].replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    named = inline.replace("<svg ", f'<svg role="img" aria-label="{spoken}" ', 1)
    return Drawing(Markup(named), CAPTIONS.get(name, ""))


def grid(table: Table) -> Grid:
    """Takes the text out of a table of the terminal.

    Example:
        >>> table = Table("name", "value")
        >>> table.add_row("one", "1")
        >>> grid(table)
        Grid(columns=[('name', False), ('value', False)], rows=[('one', '1')])
    """
    columns = [(str(column.header).strip(), column.justify == "right") for column in table.columns]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return Grid(columns, list(zip(*cells, strict=True)))


def failures(results: Row) -> list[Failure]:
    """Gathers the runs that failed in the same way."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in of_status(results, "failed"):
        found.setdefault((row["error"], row.get("traceback", "")), []).append(label(row))
    return [Failure(*way, runs) for way, runs in found.items()]


def machine(results: Row) -> dict[str, str]:
    """Says what the runs were done with and on."""
    versions = {
        name: version
        for row in of_status(results, "finished")
        for name, version in row["versions"].items()
    }
    about = results["machine"]
    return {
        "novograd-optimizer": results["novograd"],
        **versions,
        "python": about["python"],
        "system": about["system"],
        "processor": f"{about['processor']}, {about['cpus']} CPUs",
        "runs at once": f"{results['jobs']}, one thread each",
        "date": results["date"],
    }


def _leader(results: Row) -> str | None:
    """Says which optimizer has the best median, and whether that is worth anything."""
    ordered = [pair.better for pair in pairs(results)] or summaries(results)
    if not ordered:
        return None
    best = ordered[0]
    title, metric = OPTIMIZERS[best.name].title, metric_name(results)
    against = [pair for pair in pairs(results) if pair.better == best]
    tied = [OPTIMIZERS[pair.worse.name].title for pair in against if pair.outcome == "tie"]
    but = f", but ties with {' and with '.join(tied)}" if tied else ""
    if any(pair.outcome == "not ranked" for pair in against):
        but += ", of too few seeds to rank all"
    return f"{title} has the best median: {metric} {display.spread(best.best)}{but}."


def _is_novograd(one: Summary) -> bool:
    return OPTIMIZERS[one.name].kind == "novograd"


def _has_novograd(pair: Pair) -> bool:
    return _is_novograd(pair.better) or _is_novograd(pair.worse)


def _counts(results: Row) -> list[str]:
    """Says how many runs have no score."""
    counts = {status: len(of_status(results, status)) for status in ("diverged", "failed")}
    return [
        f"{count} of {len(results['runs'])} runs {status}; see below."
        for status, count in counts.items()
        if count
    ]


def _settings(results: Row) -> Table:
    """Tabulates what each optimizer was given."""
    table = Table("optimizer", "settings", "learning rates searched", "its default")
    used = {one.name: one.settings for one in summaries(results)}
    for name, rates in results["settings"]["learning_rates"].items():
        optimizer = OPTIMIZERS[name]
        default = optimizer.defaults.get(results["settings"]["framework"])
        table.add_row(
            optimizer.title,
            _written(used.get(name, optimizer.settings)),
            ", ".join(f"{rate:g}" for rate in rates),
            "-" if default is None else f"{default:g}",
        )
    return table


def _rates(results: Row) -> Table:
    """Tabulates every learning rate."""
    table = Table("optimizer")
    table.add_column("learning rate", justify="right")
    table.add_column("runs finished", justify="right")
    table.add_column(f"{metric_name(results)}, median (range)")
    for one in summaries(results):
        for point in one.points:
            table.add_row(
                OPTIMIZERS[one.name].title,
                f"{point.rate:g}",
                f"{len(point.scores)} of {point.runs}",
                display.spread(point) if point.scores else "-",
            )
    return table


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    """Writes a setting, a sequence of them as a tuple."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"({', '.join(map(_value, value))})"
    return str(value)
