"""Writes results of ``novograd compare`` into ``docs/tasks/``, ``docs/results.md`` and README.

Usage::

    python benchmarks/task_results.py

The results are in ``benchmarks/results/compare/``: copies of ``results.json`` of comparisons. Each
names the command of its comparison.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from novograd.compare import tables
from novograd.compare.analysis import Analysis, analyse
from novograd.compare.sentences import verdict
from novograd.compare.tables import Table

RESULTS = Path(__file__).parent / "results" / "compare"
PAGES = Path(__file__).parents[1] / "docs" / "tasks"
SUMMARIES = (Path(__file__).parents[1] / "README.md", PAGES.parent / "results.md")
FOUND = "## What was found\n"  # this program writes everything after this heading
HEAD = ["task", "metric", "AdamW", "NAdamW", "SGD", "NovoGrad as documented"]
OTHERS = ("adamw", "nadamw", "sgd", "novograd")


def load() -> dict[str, dict[str, Any]]:
    """Returns the results by the names of their files, such as ``brain-torch``."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("*.json"))
    }


def markdown(table: Table) -> str:
    """Returns a table in Markdown."""
    headings = [column.heading.replace("\n", " ") for column in table.columns]
    lines = ["---" if column.kind == "text" else "--:" for column in table.columns]
    return _lines([headings, lines, *table.rows])


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def section(analysis: Analysis) -> str:
    """Returns the text about one comparison."""
    results = analysis.results
    steps, framework = results["settings"]["steps"], results["settings"]["framework"]
    shown = [
        *(
            tables.differences(analysis, one.name)
            for one in analysis.summaries
            if one.name == "novograd:rows"
        ),
        tables.quality(analysis),
        tables.cost(analysis),
    ]
    return "\n\n".join(
        [
            f"`{results['command']}`: {steps} steps per run, {framework}.",
            " ".join(verdict(analysis)),
            *map(markdown, shown),
        ]
    )


def found(task: str) -> str:
    """Returns the text about all comparisons on a task, for the page of the task."""
    chosen = [results for results in load().values() if results["settings"]["task"] == task]
    if not chosen:
        return "This task has not been measured with the present protocol.\n"
    return "\n\n".join(section(analyse(results)) for results in chosen) + "\n"


def page(path: Path) -> str:
    """Returns the text of a page with the current results."""
    text, _, _ = path.read_text(encoding="utf-8").partition(FOUND)
    return f"{text}{FOUND}\n{found(path.stem)}"


def summary() -> str:
    """Returns a table of the variant ``rows`` against the other optimizers, by task."""
    lines = []
    for results in load().values():
        analysis, settings = analyse(results), results["settings"]
        about = f"`{settings['task']}`, {settings['steps']} steps, {settings['framework']}"
        lines.append([about, analysis.metric, *(_cell(analysis, other) for other in OTHERS)])
    return _lines([HEAD, ["---", "---", *["--:"] * len(OTHERS)], *lines])


def with_summary(text: str) -> str:
    """Returns a text with the current summary in the place of an earlier one."""
    start = text.index(_lines([HEAD]))
    end = text.index("\n\n", start)
    return text[:start] + summary() + text[end:]


def _cell(analysis: Analysis, other: str) -> str:
    """Returns how much better ``rows`` is than another optimizer, with the interval."""
    if other not in analysis.results["optimizers"]:
        return ""
    pair = analysis.pair("novograd:rows", other)
    if pair.gain is None:
        return "not compared"
    sign = 1 if pair.better.name == "novograd:rows" else -1
    low, high = sorted((sign * pair.gain.low, sign * pair.gain.high))
    text = f"{sign * pair.gain.mean:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{text}**" if pair.outcome == "ahead" else text


def main() -> None:
    """Writes all pages."""
    for path in PAGES.glob("*.md"):
        path.write_text(page(path), encoding="utf-8")
    for path in SUMMARIES:
        path.write_text(with_summary(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
