"""The report of a comparison: one self-contained page, and its figures as files."""

from pathlib import Path

from novograd.compare.analysis import Analysis
from novograd.compare.report.figures import all_figures, png, svg
from novograd.compare.report.page import render
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
    drawings = {}
    for name, figure in all_figures(analysis, output).items():
        drawings[name] = svg(figure, name)
        replace(folder / f"{name}.svg", drawings[name])
        replace(folder / f"{name}.png", png(figure))
    replace(output / PAGE, render(analysis, drawings))
