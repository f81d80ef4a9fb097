"""The charts of the report: pure functions from an analysis to drawings."""

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from novograd.compare.analysis import Analysis, Point, Summary
from novograd.compare.optimizers import find, styles
from novograd.compare.plan import first_metric
from novograd.compare.report.drawing import GUIDE, INK, Drawing, panel, plain
from novograd.compare.sentences import spread
from novograd.compare.tables import Column, Table

RING: dict[str, Any] = {
    "color": INK, "linestyle": "", "marker": "o", "markersize": 11, "markerfacecolor": "none"
}  # fmt: skip
CROSS: dict[str, Any] = {
    "color": INK, "linestyle": "", "marker": "x", "markersize": 7, "markeredgewidth": 2
}  # fmt: skip
SMOOTHING = 10  # steps over which the training loss is averaged
GUIDES = 20  # about this many values of the training loss are shown as numbers
APART = 1.08  # factor between the marks of two optimizers at the same learning rate


def charts(analysis: Analysis) -> dict[str, Drawing]:
    """Draws all charts.

    Args:
        analysis: The analysis of the comparison.

    Returns:
        The charts by name. Without a result to show, a chart is left out.
    """
    if not analysis.summaries:
        return {}
    searched = any(one.points for one in analysis.summaries)
    makers = [*([learning_rates] if searched else []), learning_curves, training_loss, state]
    makers += [time] if len(analysis.machines) == 1 else []
    drawings = [make(analysis) for make in makers]
    return {drawing.name: drawing for drawing in drawings}


def learning_rates(analysis: Analysis) -> Drawing:
    """Draws the first metric against the learning rate, and marks the rates that diverged."""
    results, summaries = analysis.results, analysis.summaries
    part = "validation" if results["task"]["validated"] else "test"
    title = "Result by learning rate"
    offsets = _offsets(summaries)
    looks = _looks(analysis)
    diverged = sorted(
        {
            (row["optimizer"], row["learning_rate"])
            for row in analysis.ended("diverged")
            if row["part"] == "validation" and row["optimizer"] in offsets
        }
    )
    with panel(title, "learning rate", f"{_metric(analysis)} ({part})") as (figure, axes):
        axes.set_xscale("log")
        for one in summaries:
            points = [point for point in one.points if point.scores]
            if points:
                rates = [point.rate * offsets[one.name] for point in points]
                medians = np.array([point.median for point in points])
                reach = np.abs(np.array([point.lowest_to_highest for point in points]).T - medians)
                axes.errorbar(rates, medians, reach, capsize=2, elinewidth=1, **looks[one.name])
            if chosen := _chosen(one):
                _mark(axes, RING, looks[one.name], chosen.rate * offsets[one.name], chosen.median)
        bottom = 0.03 if results["task"]["higher_is_better"] else 0.97  # of the height
        across = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        for name, rate in diverged:
            _mark(axes, CROSS, looks[name], rate * offsets[name], bottom, **across)
        tried = sorted({point.rate for one in summaries for point in one.points})
        decades = [rate for rate in tried if math.log10(rate).is_integer()]
        shown = decades if len(decades) > 2 else tried[:: math.ceil(len(tried) / 5)]
        axes.set_xticks(shown, [plain(rate) for rate in shown])
        axes.minorticks_off()
        _scale(axes)
        _guides(axes, tried)
        marks = [Line2D([], [], label="chosen", **RING)]
        if diverged:
            marks.append(Line2D([], [], label="diverged", **CROSS))
        _legend(figure, axes, marks)
    at = ", ".join(
        f"{one.title} {chosen.median:.3f} at {plain(chosen.rate)}"
        for one in summaries
        if (chosen := _chosen(one))
    )
    return Drawing(
        "learning-rates",
        figure,
        f"Line chart of {analysis.metric} on the {part} data by learning rate, with a line for "
        f"each optimizer. At the chosen learning rates: {at}.",
        f"Median of {analysis.metric} on the {part} data at every learning rate that was tried; "
        "bars: lowest to highest, where there are several seeds. Marks at the same rate are drawn "
        "slightly apart.",
        Table(
            (Column("learning rate", "number"), *_columns(summaries)),
            tuple((plain(rate), *(_at(one, rate) for one in summaries)) for rate in tried),
        ),
    )


def learning_curves(analysis: Analysis) -> Drawing:
    """Draws the first metric on the test data against the step, at the chosen learning rates."""
    runs = analysis.summaries[0].judged.finished
    return _progress(
        analysis,
        "learning-curves",
        "Progress on test data",
        f"{_metric(analysis)} (test)",
        np.array([evaluation["step"] for evaluation in runs[0]["evaluations"]]),
        lambda row: [first_metric(evaluation) for evaluation in row["evaluations"]],
        "Each optimizer at its chosen learning rate, measured on the test data during training. "
        "Line: median over the seeds; band: lowest to highest.",
        every=1,
    )


def training_loss(analysis: Analysis) -> Drawing:
    """Draws the training loss against the step, at the chosen learning rates."""
    steps = analysis.results["settings"]["steps"]
    width = min(SMOOTHING, steps)
    kernel = np.full(width, 1 / width)
    return _progress(
        analysis,
        "training-loss",
        "Progress on training data",
        "training loss",
        np.arange(width, steps + 1),
        lambda row: np.convolve(row["loss"], kernel, "valid"),
        f"The training loss of the same runs, as the mean of {width} steps.",
        every=math.ceil(steps / GUIDES),
    )


def state(analysis: Analysis) -> Drawing:
    """Draws the state size of each optimizer and its ratio to the size of the weights."""

    def written(one: Summary) -> str:
        weights = one.judged.finished[0]["weight_bytes"]
        return f"{one.state_bytes:,} ({one.state_bytes / weights:.2f} x weights)"

    return _bars(
        analysis,
        "state",
        "Memory for the optimizer's state, bytes",
        lambda one: one.state_bytes,
        written,
        "Size of the data that the optimizer keeps between two steps.",
    )


def time(analysis: Analysis) -> Drawing:
    """Draws the time of each optimizer's update, if there is only one kind of machine."""
    (machine,) = analysis.machines

    def written(one: Summary) -> str:
        times = one.times[machine]
        return f"{times.update_ms:.2g} ({times.share:.0%} of the step)"

    return _bars(
        analysis,
        "time",
        "Time of the optimizer's update, ms",
        lambda one: one.times[machine].update_ms,
        written,
        "Median time of the optimizer's part of a training step.",
    )


def _progress(
    analysis: Analysis,
    name: str,
    title: str,
    ylabel: str,
    steps: NDArray[Any],
    curve: Callable[[Mapping[str, Any]], Any],
    caption: str,
    every: int,
) -> Drawing:
    """Draws a curve of the judged runs; ``curve`` returns the values of a run at the steps.

    Every so many steps there is a guide.
    """
    summaries, looks = analysis.summaries, _looks(analysis)
    curves = {one.name: np.array([curve(row) for row in one.judged.finished]) for one in summaries}
    read = [i for i, step in enumerate(steps) if step % every == 0]
    with panel(title, "training step", ylabel) as (figure, axes):
        for one in summaries:
            _band(axes, steps, curves[one.name], looks[one.name])
        _scale(axes)
        _guides(axes, steps[read])
        _legend(figure, axes)
    ends = ", ".join(f"{one.title} {np.median(curves[one.name][:, -1]):.3f}" for one in summaries)
    return Drawing(
        name,
        figure,
        f"Line chart of {ylabel} by training step, with a line for each optimizer. "
        f"At step {steps[-1]}: {ends}.",
        caption,
        Table(
            (Column("step", "number"), *_columns(summaries)),
            tuple(
                (f"{steps[i]}", *(spread(curves[one.name][:, i].tolist()) for one in summaries))
                for i in read
            ),
        ),
    )


def _bars(
    analysis: Analysis,
    name: str,
    title: str,
    value: Callable[[Summary], float],
    written: Callable[[Summary], str],
    caption: str,
) -> Drawing:
    summaries, looks = analysis.summaries, _looks(analysis)
    with panel(title, "", "", height=0.9 + 0.42 * len(summaries)) as (figure, axes):
        values = [value(one) for one in summaries]
        drawn = axes.barh(
            range(len(values)),
            values,
            color=[looks[one.name]["color"] for one in summaries],
            height=0.62,
        )
        axes.bar_label(drawn, [written(one) for one in summaries], padding=4, fontsize=9)
        axes.set_xlim(0, 2 * max(values))  # leaves room for the text after the bars
        axes.set_yticks(range(len(values)), [one.title for one in summaries])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(bottom=False, left=False, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
    told = ", ".join(f"{one.title} {written(one)}" for one in summaries)
    return Drawing(name, figure, f"Bar chart. {title}: {told}.", caption)


def _band(axes: Axes, x: NDArray[Any], curves: NDArray[Any], look: Mapping[str, Any]) -> None:
    """Draws the median and the range of curves of shape ``(runs, len(x))``."""
    low, high = curves.min(axis=0), curves.max(axis=0)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axes.plot(x, np.median(curves, axis=0), markevery=max(1, len(x) // 10), **look)


def _looks(analysis: Analysis) -> dict[str, dict[str, Any]]:
    """Returns the style of the lines of each optimizer."""
    return {
        name: {
            "color": colour,
            "linestyle": "-" if find(name).variant == "documented" else "--",
            "marker": marker,
            "label": analysis.results["optimizers"][name],
        }
        for name, (colour, marker) in styles(analysis.results["optimizers"]).items()
    }


def _mark(
    axes: Axes, kind: Mapping[str, Any], look: Mapping[str, Any], x: float, y: float, **more: Any
) -> None:
    """Draws a ring or a cross in the colour of an optimizer."""
    axes.plot(x, y, **{**kind, **more, "color": look["color"]})


def _scale(axes: Axes) -> None:
    """Makes the y axis logarithmic if the highest value is over 100 times the lowest."""
    low, high = axes.dataLim.intervaly
    if 0 < 100 * low < high:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(NullFormatter())


def _guides(axes: Axes, places: Sequence[float] | NDArray[Any]) -> None:
    """Draws a hidden line at each place; the page shows the line next to the pointer."""
    for i, place in enumerate(places):
        axes.axvline(place, color=INK, linewidth=1, alpha=0, gid=f"{GUIDE}-{i}")


def _legend(figure: Figure, axes: Axes, marks: Sequence[Line2D] = ()) -> None:
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(
        handles=[*handles, *marks],
        loc="outside lower left",
        ncols=3,
        columnspacing=1.2,
        handlelength=2,
    )


def _offsets(summaries: Sequence[Summary]) -> dict[str, float]:
    """Returns factors that move the marks of the optimizers away from each other."""
    middle = (len(summaries) - 1) / 2
    return {one.name: APART ** (i - middle) for i, one in enumerate(summaries)}


def _columns(summaries: Sequence[Summary]) -> list[Column]:
    return [Column(one.title, "range") for one in summaries]


def _metric(analysis: Analysis) -> str:
    return shorten(analysis.metric, 30, placeholder="...")


def _chosen(one: Summary) -> Point | None:
    """Returns the point at the chosen learning rate, if a run finished there in the search."""
    points = (point for point in one.points if point.rate == one.judged.rate and point.scores)
    return next(points, None)


def _at(one: Summary, rate: float) -> str:
    """Writes the results of an optimizer at a learning rate."""
    point = next((point for point in one.points if point.rate == rate), None)
    if point is None:
        return ""
    if not point.scores:
        return "no result"
    lost = point.ended - len(point.scores)
    said = [
        spread(point.scores),
        *([f"{lost} of {point.ended} runs without a result"] if lost else []),
        *(["chosen"] if rate == one.judged.rate else []),
    ]
    return ", ".join(said)
