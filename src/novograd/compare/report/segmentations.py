"""The pictures of segmentations: images with the true and the predicted labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from novograd.compare.analysis import Analysis
from novograd.compare.plan import FIRST_JUDGE
from novograd.compare.report.drawing import STYLE, WIDTH, Drawing, lay_out
from novograd.compare.runner import PICTURES, picture_of

CLASS_COLOURS = (
    "#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00"
)  # fmt: skip
MOST_PICTURES = 4


def segmentations(analysis: Analysis, output: Path) -> list[Drawing]:
    """Draws the labels predicted by the first judged run of each optimizer.

    Args:
        analysis: The analysis of the comparison.
        output: The directory that has the pictures.

    Returns:
        A drawing for each optimizer that has pictures.
    """
    drawings = []
    for one in analysis.summaries:
        run = one.judged.finished[0]
        path = output / PICTURES / picture_of(run)
        if run["seed"] == FIRST_JUDGE and path.exists():
            with np.load(path) as arrays:
                figure = _segmentation(arrays, one.title)
            drawings.append(
                Drawing(
                    f"segmentation-{Path(picture_of(run)).stem}",
                    figure,
                    "Images, each next to its true labels and to the labels predicted by "
                    f"{one.title}.",
                    "",
                )
            )
    return drawings


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
        lay_out(figure)
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
