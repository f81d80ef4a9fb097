"""How the report draws: one style for all figures, and their form as SVG and PNG."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novograd.compare.tables import Table

# The page replaces these two colours by its own, for light and dark mode.
INK, PAPER = "#24292f", "#ffffff"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.formatter.limits": (-7, 7),  # no exponents in usual numbers
    "axes.formatter.useoffset": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": PAPER,
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # keep text as text
    "text.color": INK,
    "text.parse_math": False,  # the name of a metric may contain a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 9,
    "ytick.color": INK,
    "ytick.labelsize": 9,
}
WIDTH = 4.5  # inches, narrow enough for a phone; a browser shows 96 pixels per inch
GUIDE = "guide"  # the id of a hidden vertical line; assets/script.js shows it with its values


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        name: The file name, without an ending.
        figure: The figure.
        description: What the figure shows, for readers who do not see it.
        caption: How to read it.
        values: The values that it shows: a row for each of the hidden lines whose ids begin with
            ``GUIDE``. None for a figure that shows its values in words.
    """

    name: str
    figure: Figure
    description: str
    caption: str
    values: Table | None = None

    @cached_property
    def svg(self) -> str:
        """The figure as SVG: the same text for the same figure.

        The name is a prefix of every id, so that several figures can be on one page.
        """
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        file = BytesIO()
        with matplotlib.rc_context(STYLE), matplotlib.rc_context({"svg.hashsalt": self.name}):
            self.figure.savefig(file, format="svg", metadata=nothing)
        text = file.getvalue().decode()
        for before in ('id="', "url(#", 'href="#'):
            text = text.replace(before, f"{before}{self.name}-")
        return text

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG: the same bytes for the same figure."""
        file = BytesIO()
        self.figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
        return file.getvalue()


@contextmanager
def panel(
    title: str, xlabel: str, ylabel: str, height: float = 3.6
) -> Iterator[tuple[Figure, Axes]]:
    """Makes a figure with one pair of axes, and lays it out at the end of the block."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.grid(alpha=0.15, color=INK)
        yield figure, axes
        lay_out(figure)


def lay_out(figure: Figure) -> None:
    """Fixes the layout, because each save would change it slightly."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def plain(value: float, _: object = None) -> str:
    """Writes a number with up to six digits and without an exponent.

    Example:
        >>> plain(1e-5), plain(0.1 + 0.2), plain(20000.0)
        ('0.00001', '0.3', '20000')
    """
    return np.format_float_positional(float(f"{value:.6g}"), trim="-")
