"""Writes results of ``novograd compare`` into the pages of ``docs/tasks/``.

Usage::

    python benchmarks/task_results.py

The results are in ``benchmarks/results/compare/``: copies of ``results.json`` of comparisons. Each
names the command of its comparison.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from novograd.compare.analysis import Analysis, analyse, standing
from novograd.compare.sentences import at_default, robust, spread, steps_to_target

RESULTS = Path(__file__).parent / "results" / "compare"
PAGES = Path(__file__).parents[1] / "docs" / "tasks"
WARMED_UP = 3  # the schema since which a tenth of the steps is warm-up
FOUND = "## What was found\n"  # this program writes everything after this heading


def load() -> dict[str, dict[str, Any]]:
    """Returns the results by the names of their files, such as ``brain-torch``."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("*.json"))
    }


def table(analysis: Analysis) -> str:
    """Returns a Markdown table with a row for each optimizer."""
    margin = analysis.results["task"]["margin"]
    head = [
        "optimizer", "best rate", f"{analysis.metric}, median (range)", "at default rate",
        f"rates within {margin:g} of best", "steps to target", "state bytes", "update ms (share)",
    ]  # fmt: skip
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    for one in analysis.summaries:
        rows.append([
            one.title, f"{one.best.rate:g}", spread(one.best), at_default(one), robust(one),
            steps_to_target(one), f"{one.state_bytes:,}", f"{one.update_ms:.2g} ({one.share:.0%})",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def standings(analysis: Analysis) -> Iterator[str]:
    """Yields for each NovoGrad a line of Markdown that compares it with the other optimizers."""
    titles = analysis.results["optimizers"]
    for one in analysis.summaries:
        if one.is_novograd:
            parts = [
                f"{verb} {', '.join(titles[other] for other in others)}"
                for verb, others in standing(analysis, one.name).items()
                if others
            ]
            yield f"- {one.title} {'; '.join(parts)}."


def found(task: str) -> str:
    """Returns the text about all comparisons on a task, for the page of the task."""
    parts = []
    for results in load().values():
        if results["settings"]["task"] == task:
            analysis = analyse(results)
            steps, framework = results["settings"]["steps"], results["settings"]["framework"]
            about = f"`{results['command']}`: {steps} steps per run, {framework}"
            if results["schema"] < WARMED_UP:
                about += ", in an earlier version: ten steps of warm-up, and other rows"
            parts += [f"{about}.", "", table(analysis), "", *standings(analysis), ""]
    return "\n".join(parts)


def page(path: Path) -> str:
    """Returns the text of a page with the current results."""
    text, _, _ = path.read_text(encoding="utf-8").partition(FOUND)
    return f"{text}{FOUND}\n{found(path.stem)}"


def main() -> None:
    """Writes all pages."""
    for path in PAGES.glob("*.md"):
        path.write_text(page(path), encoding="utf-8")


if __name__ == "__main__":
    main()
