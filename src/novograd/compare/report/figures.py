"""The figures of the report: pure functions from an analysis to matplotlib figures.

Each figure is narrow enough for a phone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from novograd.compare.analysis import Analysis, Row, Summary
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.plan import first_metric
from novograd.compare.runner import PICTURES, picture_of

# The page replaces these two colours by its own, for light and dark mode.
INK, PAPER = "#24292f", "#ffffff"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
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
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # keep text as text
    "text.color": INK,
    "text.parse_math": False,  # the name of a metric may contain a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}
WIDTH = 4.5  # inches; a browser shows 96 pixels per inch
MARKERS = dict(zip(OPTIMIZERS, "osD^vP", strict=True))  # for readers who do not see the colours
CLASS_COLOURS = (
    "#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00"
)  # fmt: skip
RING: dict[str, Any] = {
    "color": INK, "linestyle": "", "marker": "o", "markersize": 11, "markerfacecolor": "none"
}  # fmt: skip
CROSS: dict[str, Any] = {
    "color": INK, "linestyle": "", "marker": "x", "markersize": 7, "markeredgewidth": 2
}  # fmt: skip
SMOOTHING = 10  # steps over which the training loss is averaged
APART = 1.08  # factor between the marks of two optimizers at the same learning rate
MOST_PICTURES = 4


def all_figures(analysis: Analysis, output: Path) -> dict[str, Figure]:
    """Draws all figures.

    Args:
        analysis: The analysis of the comparison.
        output: The directory that has the pictures of segmentations.

    Returns:
        The figures by file name; empty if no run finished.
    """
    if not analysis.summaries:
        return {}
    makers: dict[str, Callable[[Analysis], Figure]] = {
        "learning-curves": learning_curves,
        "training-loss": training_loss,
        "learning-rates": learning_rates,
        "state": state,
        "time": time,
    }
    charts = {name: make(analysis) for name, make in makers.items()}
    return {**charts, **segmentations(analysis, output)}


def learning_curves(analysis: Analysis) -> Figure:
    """Draws the first metric on the test data against the step, at each best learning rate."""

    def curves(runs: Sequence[Row]) -> tuple[NDArray[Any], NDArray[Any]]:
        steps = [evaluation["step"] for evaluation in runs[0]["evaluations"]]
        scores = [[first_metric(found) for found in row["evaluations"]] for row in runs]
        return np.array(steps), np.array(scores)

    return _curves(f"{_metric(analysis)} on the test data", analysis, curves)


def training_loss(analysis: Analysis) -> Figure:
    """Draws the training loss against the step, at each best learning rate."""
    steps = analysis.results["settings"]["steps"]
    width = min(SMOOTHING, steps)
    kernel = np.full(width, 1 / width)

    def curves(runs: Sequence[Row]) -> tuple[NDArray[Any], NDArray[Any]]:
        losses = [np.convolve(row["loss"], kernel, "valid") for row in runs]
        return np.arange(width, steps + 1), np.array(losses)

    return _curves(f"training loss, mean of {width} steps", analysis, curves)


def learning_rates(analysis: Analysis) -> Figure:
    """Draws the first metric against the learning rate, and marks the rates that diverged."""
    names = list(analysis.results["optimizers"])
    worst = 0.03 if analysis.results["task"]["higher_is_better"] else 0.97  # of the axis height
    with _panel(f"{_metric(analysis)} on the test data", "learning rate") as (figure, axes):
        axes.set_xscale("log")
        for one in analysis.summaries:
            points = [point for point in one.points if point.scores]
            offset = _offset(one.name, names)
            rates = [point.rate * offset for point in points]
            medians = np.array([point.median for point in points])
            ends = np.array([point.worst_to_best for point in points]).T
            reach = np.abs(ends - medians)
            axes.errorbar(rates, medians, reach, capsize=2, elinewidth=1, **_line(one.name))
            if one.default:
                axes.plot(one.default.rate * offset, one.default.median, **RING)
        diverged = sorted(
            {(row["optimizer"], row["learning_rate"]) for row in analysis.ended("diverged")}
        )
        for name, rate in diverged:
            style: dict[str, Any] = CROSS | {"color": OPTIMIZERS[name].colour}
            place = axes.get_xaxis_transform()
            axes.plot(rate * _offset(name, names), worst, transform=place, clip_on=False, **style)
        _rate_axis(axes, analysis)
        _scale(axes)
        marks: list[dict[str, Any]] = []
        if any(one.default for one in analysis.summaries):
            marks.append(RING | {"label": "default rate"})
        if diverged:
            marks.append(CROSS | {"label": "diverged"})
        _legend(figure, axes, [Line2D([], [], **mark) for mark in marks])
    return figure


def state(analysis: Analysis) -> Figure:
    """Draws the state size of each optimizer and its ratio to the size of the weights."""

    def written(one: Summary) -> str:
        weights = one.best.finished[0]["weight_bytes"]
        return f"{one.state_bytes:,} ({one.state_bytes / weights:.2f} x weights)"

    return _bars("state of the optimizer, bytes", analysis, lambda one: one.state_bytes, written)


def time(analysis: Analysis) -> Figure:
    """Draws the time of each optimizer's update."""

    def written(one: Summary) -> str:
        return f"{one.update_ms:.2g} ({one.share:.0%} of the step)"

    return _bars("optimizer's part of a step, ms", analysis, lambda one: one.update_ms, written)


def segmentations(analysis: Analysis, output: Path) -> dict[str, Figure]:
    """Draws the labels predicted by the first seed of each optimizer at its best learning rate.

    Args:
        analysis: The analysis of the comparison.
        output: The directory that has the pictures.

    Returns:
        A figure for each optimizer that has pictures, by file name.
    """
    figures = {}
    for one in analysis.summaries:
        run = one.best.finished[0]
        path = output / PICTURES / picture_of(run)
        if run["seed"] == 0 and path.exists():
            with np.load(path) as arrays:
                name = f"segmentation-{one.name.replace(':', '-')}"
                figures[name] = _segmentation(arrays, one.title)
    return figures


def png(figure: Figure) -> bytes:
    """Returns a figure as PNG: the same bytes for the same figure."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure, name: str) -> str:
    """Returns a figure as SVG: the same text for the same figure.

    Args:
        figure: The figure.
        name: A prefix of every id, so that several figures can be on one page.
    """
    file = BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue().decode()
    for before in ('id="', "url(#", 'href="#'):
        text = text.replace(before, f"{before}{name}-")
    return text


@contextmanager
def _panel(title: str, xlabel: str, height: float = 3.6) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=xlabel)
        axes.grid(alpha=0.15, color=INK)
        yield figure, axes
        _lay_out(figure)


def _lay_out(figure: Figure) -> None:
    """Fixes the layout, because each save would change it slightly."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _line(name: str) -> dict[str, Any]:
    """Returns the style of the curves of an optimizer."""
    optimizer = OPTIMIZERS[name]
    dashed = "--" if optimizer.variant != "documented" else "-"
    return {
        "color": optimizer.colour,
        "linestyle": dashed,
        "marker": MARKERS[name],
        "label": optimizer.title,
    }


def _curves(
    title: str,
    analysis: Analysis,
    curves: Callable[[Sequence[Row]], tuple[NDArray[Any], NDArray[Any]]],
) -> Figure:
    """Draws curves of the best runs of each optimizer; ``curves`` returns steps and values."""
    with _panel(title, "step") as (figure, axes):
        for one in analysis.summaries:
            _band(axes, one.name, *curves(one.best.finished))
        _scale(axes)
        _legend(figure, axes)
    return figure


def _band(axes: Axes, name: str, x: NDArray[Any], curves: NDArray[Any]) -> None:
    """Draws the median and the range of curves of shape ``(runs, len(x))``."""
    low, high = curves.min(axis=0), curves.max(axis=0)
    axes.fill_between(x, low, high, color=OPTIMIZERS[name].colour, alpha=0.2, linewidth=0)
    axes.plot(x, np.median(curves, axis=0), markevery=max(1, len(x) // 10), **_line(name))


def _scale(axes: Axes) -> None:
    """Makes the y axis logarithmic if the highest value is over 100 times the lowest."""
    low, high = axes.dataLim.intervaly
    if 0 < 100 * low < high:
        axes.set_yscale("log")


def _rate_axis(axes: Axes, analysis: Analysis) -> None:
    """Labels the learning rates that were tried, at most 8 of them."""
    rates = sorted({row["learning_rate"] for row in analysis.results["runs"]})
    shown = rates[:: math.ceil(len(rates) / 8)]
    axes.set_xticks(shown, [f"{rate:g}" for rate in shown])
    axes.minorticks_off()


def _offset(name: str, names: Sequence[str]) -> float:
    """Returns a factor that moves the marks of an optimizer away from other marks."""
    return APART ** (names.index(name) - (len(names) - 1) / 2)


def _legend(figure: Figure, axes: Axes, marks: Sequence[Line2D] = ()) -> None:
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(
        handles=[*handles, *marks],
        loc="outside lower left",
        ncols=3,
        fontsize=9,
        columnspacing=1.2,
        handlelength=2,
    )


def _bars(
    title: str,
    analysis: Analysis,
    value: Callable[[Summary], float],
    written: Callable[[Summary], str],
) -> Figure:
    found = analysis.summaries
    with _panel(title, "", height=0.9 + 0.42 * len(found)) as (figure, axes):
        values = [value(one) for one in found]
        drawn = axes.barh(
            [one.title for one in found],
            values,
            color=[OPTIMIZERS[one.name].colour for one in found],
            height=0.62,
        )
        axes.bar_label(drawn, [written(one) for one in found], padding=4, fontsize=9)
        axes.set_xlim(0, 2 * max(values))  # leaves room for the text after the bars
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(bottom=False, left=False, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
    return figure


def _segmentation(arrays: Mapping[str, NDArray[Any]], title: str) -> Figure:
    """Draws images, alone and with the true and the predicted labels over them."""
    images, truth, found = (
        arrays[name][:MOST_PICTURES] for name in ("images", "truth", "predicted")
    )
    names = [str(name) for name in arrays["classes"]] if "classes" in arrays else []
    height = WIDTH / 3 * images.shape[1] / images.shape[2] * len(images) + 0.7
    with matplotlib.rc_context(STYLE):
        close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        figure = Figure(figsize=(WIDTH, height), layout=close)
        grid = figure.subplots(len(images), 3, squeeze=False)
        for axes, *shown in zip(grid, images, truth, found, strict=True):
            for place, labels in zip(axes, (None, *shown[1:]), strict=True):
                place.imshow(_overlay(shown[0], labels), interpolation="none")
                place.axis("off")
        for axes, column in zip(grid[0], ("image", "truth", title), strict=True):
            axes.set_title(column)
        labels = range(1, int(max(truth.max(), found.max())) + 1)
        handles = [
            Patch(color=_class_colour(label), label=_class_name(label, names)) for label in labels
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)
        _lay_out(figure)
    return figure


def _overlay(image: NDArray[Any], labels: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Returns an image in colours, shape ``(height, width, 3)``.

    Args:
        image: Any real dtype, shape ``(height, width)``.
        labels: Integers of the same shape; labels above 0 are painted over the image.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    colours = np.repeat(grey[..., None], 3, axis=-1)
    for label in () if labels is None else np.unique(labels[labels > 0]):
        colours[labels == label] *= 0.4
        colours[labels == label] += 0.6 * np.array(to_rgb(_class_colour(int(label))))
    return np.round(255 * colours).astype(np.uint8)


def _class_colour(label: int) -> str:
    return CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)]


def _class_name(label: int, names: Sequence[str]) -> str:
    return names[label - 1] if label <= len(names) else f"label {label}"


def _metric(analysis: Analysis) -> str:
    return shorten(analysis.metric, 40, placeholder="...")
