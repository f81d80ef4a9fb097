"""Renders the page of the report from an analysis and its drawings."""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from novograd.compare import tables
from novograd.compare.analysis import Analysis, Row, Summary
from novograd.compare.optimizers import styles
from novograd.compare.report import data
from novograd.compare.report.drawing import INK, PAPER, Drawing
from novograd.compare.runner import FRAMEWORKS, dump
from novograd.compare.sentences import cautions, label, protocol, spread, verdict

ASSETS = files("novograd.compare.report") / "assets"
SCRIPTS = ("sortable.js", "script.js")  # sortable.js is sortable-tablesort 4.1.7, unchanged


class Cell(NamedTuple):
    """A comparison of two optimizers in the matrix.

    Attributes:
        kind: ``"ahead"`` or ``"behind"`` if a difference is shown, else ``"unclear"``;
            ``"missing"`` if there is no comparison, ``"same"`` for an optimizer and itself.
        mean: How much better the optimizer of the row is, or the reason why this is not known.
        interval: The 95 % interval; may be empty.
    """

    kind: str
    mean: str = ""
    interval: str = ""


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


def render(
    analysis: Analysis, charts: Mapping[str, Drawing], segmentations: Sequence[Drawing]
) -> str:
    """Returns the page.

    Args:
        analysis: The analysis of a comparison.
        charts: The charts by name.
        segmentations: The pictures of segmentations.
    """
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    results = analysis.results
    script = "".join(map(_asset, SCRIPTS))
    looks = styles(results["optimizers"])
    return environment.get_template("page.html").render(
        analysis=analysis,
        results=results,
        script=Markup(script),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        framework=FRAMEWORKS[results["settings"]["framework"]].title,
        title=results["task"]["title"] or results["settings"]["task"],
        colours={title: looks[name][0] for name, title in results["optimizers"].items()},
        answer=answer(analysis),
        matrix=matrix(analysis),
        cautions=[*_failed(analysis), *cautions(analysis)],
        tables=tables,
        charts=charts,
        segmentations=segmentations,
        inline=inline,
        sort_key=sort_key,
        protocol=protocol(analysis),
        diverged=analysis.ended("diverged"),
        label=label,
        failures=failures(analysis.ended("failed")),
        machine=machine(analysis),
        downloads={
            "results.json": data.url(dump(dict(results)), "application/json"),
            "runs.csv": data.url(data.runs_csv(results["runs"]), "text/csv"),
        },
    )


def answer(analysis: Analysis) -> list[str]:
    """Says in a few sentences which optimizer is ahead of which."""
    match analysis.summaries:
        case []:
            return ["There are no results on test data, so there is nothing to compare."]
        case [one]:
            score = f"{analysis.metric} {spread(one.judged.scores)}"
            return [f"{one.title} has the only results: {score}."]
        case _:
            return verdict(analysis)


def matrix(analysis: Analysis) -> list[tuple[Summary, list[Cell]]]:
    """Returns each optimizer, with its comparison with every optimizer."""
    summaries = analysis.summaries
    return [(row, [_cell(analysis, row, column) for column in summaries]) for row in summaries]


def inline(drawing: Drawing) -> Markup:
    """Returns a drawing as SVG to insert into the page, with the page's colours."""
    svg = drawing.svg
    svg = svg[svg.index("<svg ") :].replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    named = Markup('<svg role="img" aria-label="{}" ').format(drawing.description)
    return Markup(svg.replace("<svg ", named, 1))


def sort_key(cell: str) -> str:
    """Returns the first number of a cell, by which its column is sorted; "" without a number.

    Example:
        >>> sort_key("only 0.01"), sort_key("118,176"), sort_key("1e-05-0.1"), sort_key("-")
        ('0.01', '118176', '1e-05', '')
    """
    found = re.search(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]\d+)?", cell)
    return found[0].replace(",", "") if found else ""


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
    nodes = Counter(row["machine"] for row in results["runs"] if "machine" in row)
    return {
        "novograd-optimizer": results["novograd"],
        **versions,
        "python": about["python"],
        "system": about["system"],
        "processor": f"{about['processor']}, {about['cpus']} CPUs",
        "device": about["device"],
        **({"cluster": "; ".join(f"{n} runs on {x}" for x, n in nodes.items())} if nodes else {}),
        "runs at once": f"{results['jobs']}, one thread each",
        "date": results["date"],
    }


def _cell(analysis: Analysis, row: Summary, column: Summary) -> Cell:
    if row is column:
        return Cell("same")
    pair = analysis.pair(row.name, column.name)
    if pair.gain is None:
        return Cell("missing", f"not compared: {pair.why_not}")
    ahead = pair.better is row
    mean, low, high = pair.gain.mean, pair.gain.low, pair.gain.high
    if not ahead:
        mean, low, high = -mean, -high, -low
    kind = ("ahead" if ahead else "behind") if pair.outcome == "ahead" else "unclear"
    return Cell(kind, _signed(mean), f"{_signed(low)} to {_signed(high)}")


def _signed(number: float) -> str:
    """Writes a number with its sign; a minus is as wide as a plus."""
    return f"{number:+.3f}".replace("-0.000", "+0.000").replace("-", "\N{MINUS SIGN}")


def _failed(analysis: Analysis) -> list[str]:
    """Says how many runs failed."""
    failed, runs = analysis.ended("failed"), analysis.results["runs"]
    if not failed:
        return []
    return [f"{len(failed)} of {len(runs)} runs failed; the errors are at the end of this page."]


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
