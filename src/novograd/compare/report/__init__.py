"""The report of a comparison: one self-contained page, and its figures as files."""

from pathlib import Path

from novograd.compare.analysis import Analysis
from novograd.compare.report.charts import charts
from novograd.compare.report.page import render
from novograd.compare.report.segmentations import segmentations
from novograd.results import replace

PAGE, FIGURES = "report.html", "figures"

__all__ = ["FIGURES", "PAGE", "write"]


def write(analysis: Analysis, output: Path) -> None:
    """Writes the page, and each figure as PNG and SVG.

    Args:
        analysis: The analysis of the comparison.
        output: The output directory, which has the pictures of segmentations. The page is written
            to ``PAGE`` and the figures to ``FIGURES`` in it.
    """
    folder = output / FIGURES
    folder.mkdir(exist_ok=True)
    drawn, pictures = charts(analysis), segmentations(analysis, output)
    for one in (*drawn.values(), *pictures):
        replace(folder / f"{one.name}.svg", one.svg)
        replace(folder / f"{one.name}.png", one.png)
    replace(output / PAGE, render(analysis, drawn, pictures))
