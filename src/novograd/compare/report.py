"""How a comparison is shown: progress while it runs, then a table, remarks and a picture."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from novograd.compare.brain import CLASSES
from novograd.compare.runner import LEARNING_RATES, STEPS, Run

NAMES = {"novograd": "NovoGrad", "adam": "Adam", "momentum": "Momentum"}
COLOURS = {"novograd": "#D55E00", "adam": "#0072B2", "momentum": "#009E73"}  # Okabe and Ito's
SMOOTHING = 10  # steps over which the picture averages the training loss

Results = dict[str, Any]  # what runner.compare returns
Row = dict[str, Any]  # one of its runs


class Display:
    """Shows the runs live: a bar for all of them, and a line for each that is at work.

    Without a terminal there are only plain lines, at the start and the end of each run.

    Args:
        console: Where to show it.
        runs: What will be run.
    """

    def __init__(self, console: Console, runs: Sequence[Run]) -> None:
        """See the class."""
        self._done = dict.fromkeys(runs, 0)  # steps
        self._lines: dict[Run, TaskID] = {}
        self._ended = 0
        self._progress = Progress(
            TextColumn("{task.description:<17}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]} {task.fields[dice]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._add("all runs", sum(run.steps for run in runs))

    def __enter__(self) -> Self:
        """Begins to show."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops, and takes the bars away."""
        self._progress.stop()

    def __call__(self, run: Run, event: dict[str, Any]) -> None:
        """Shows an event.

        Args:
            run: The run it belongs to.
            event: The event, see ``runner.compare``.
        """
        name = f"{NAMES[run.optimizer]}, seed {run.seed}"
        show = self._progress
        match event:
            case {"event": "start"}:
                self._lines[run] = self._add(name, run.steps)
                if show.disable:
                    show.console.print(f"{name}: starts")
            case {"event": "step", "step": step, "loss": loss}:
                self._done[run] = step
                show.update(self._lines[run], completed=step, loss=f"loss {loss:.3f}")
            case {"event": "evaluation", "mean_dice": dice}:
                show.update(self._lines[run], dice=f"Dice {dice:.3f}")
            case {"event": "result"}:
                self._done[run] = run.steps
                self._ended += 1
                show.remove_task(self._lines[run])
                show.console.print(f"{name}: {outcome(event)} ({self._ended}/{len(self._done)})")
        show.update(self._all, completed=sum(self._done.values()))

    def _add(self, name: str, steps: int) -> TaskID:
        return self._progress.add_task(name, total=steps, loss="", dice="")


def outcome(row: Row) -> str:
    """Says in a few words how a run ended.

    Args:
        row: A row of the results, or a result event.

    Returns:
        Its mean Dice, or that it diverged or failed, and where or why.
    """
    match row:
        case {"status": "finished", "mean_dice": dice}:
            return f"mean Dice {dice:.3f}"
        case {"status": "diverged", "diverged_at": step}:
            return f"diverged at step {step}"
        case _:
            return f"failed: {row['error']}"


def table(results: Results) -> Table:
    """Tabulates the results: a row for each optimizer, and one for each run that went wrong.

    Args:
        results: What ``runner.compare`` returned.

    Returns:
        The table; numbers are medians over the finished runs of an optimizer.
    """
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("optimizer")
    made.add_column("learning\nrate", justify="right")
    made.add_column("mean Dice\nmedian (min-max)", no_wrap=True)
    for name in CLASSES:
        made.add_column(f"Dice\n{name}", justify="right")
    made.add_column("test\nloss", justify="right")
    made.add_column("state\nbytes", justify="right")
    made.add_column("step\nms", justify="right")
    for optimizer, rows in _finished(results).items():
        score, (low, high) = _median(rows, "mean_dice"), _range(rows)
        made.add_row(
            NAMES[optimizer],
            f"{rows[0]['learning_rate']:g}",
            f"{score:.3f} ({low:.3f}-{high:.3f})",
            *(f"{statistics.median(row['dice'][name] for row in rows):.2f}" for name in CLASSES),
            f"{_median(rows, 'test_loss'):.3f}",
            f"{_median(rows, 'state_bytes'):,.0f}",
            f"{_median(rows, 'step_ms'):.0f}",
        )
    for row in _unfinished(results):
        rate = f"{row['learning_rate']:g}"
        made.add_row(NAMES[row["optimizer"]], rate, f"seed {row['seed']}: {row['status']}")
    return made


def remarks(results: Results) -> list[str]:
    """Says what the table allows to conclude, and what not.

    Two optimizers tie if the ranges of their mean Dice over the seeds overlap.

    Args:
        results: What ``runner.compare`` returned.

    Returns:
        Sentences to print under the table.
    """
    said = []
    if results["status"] == "interrupted":
        said.append(f"Interrupted: {len(results['runs'])} of {results['planned']} runs ended.")
    for row in _unfinished(results):
        said.append(f"{NAMES[row['optimizer']]}, seed {row['seed']}: {outcome(row)}.")
    finished = _finished(results)
    for pair in itertools.combinations(finished.items(), 2):
        (lower, worse), (upper, better) = sorted(
            pair, key=lambda item: _median(item[1], "mean_dice")
        )
        if min(len(worse), len(better)) < 2:
            said.append(
                f"{NAMES[upper]} and {NAMES[lower]} are not ranked: one seed has no spread."
            )
        elif _range(better)[0] <= _range(worse)[1]:
            said.append(f"{NAMES[upper]} and {NAMES[lower]} tie: their ranges over seeds overlap.")
        else:
            ahead = _median(better, "mean_dice") - _median(worse, "mean_dice")
            said.append(f"{NAMES[upper]} is ahead of {NAMES[lower]} by {ahead:.3f} mean Dice.")
    for optimizer, rows in finished.items():
        settings = ", ".join(f"{name}={value}" for name, value in rows[0]["settings"].items())
        said.append(f"{NAMES[optimizer]}: {settings or 'all defaults'}.")
    if all(
        (row["steps"], row["learning_rate"]) == (STEPS, LEARNING_RATES[row["optimizer"]])
        for row in results["runs"]
    ):
        said.append(
            "Learning rates: the best of five for each optimizer at this length, with TensorFlow "
            "(benchmarks/brain_learning_rates.py)."
        )
    said.append(
        "The data is one averaged brain: this compares optimizers, it says nothing about patients."
    )
    return said


def picture(results: Results, path: Path) -> None:
    """Draws the learning curves: test Dice and training loss against the step.

    A line is the median over the finished runs of an optimizer, the band around it their range.

    Args:
        results: What ``runner.compare`` returned, with at least one finished run.
        path: The PNG file to write.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    dice, loss = figure.subplots(1, 2)
    for optimizer, rows in _finished(results).items():
        style = {"color": COLOURS[optimizer], "label": f"{NAMES[optimizer]}, {len(rows)} runs"}
        steps = [evaluation["step"] for evaluation in rows[0]["evaluations"]]
        scores = [[evaluation["mean_dice"] for evaluation in row["evaluations"]] for row in rows]
        _band(dice, np.array(steps), np.array(scores), marker="o", **style)
        width = min(SMOOTHING, rows[0]["steps"])
        kernel = np.full(width, 1 / width)
        losses = [np.convolve(row["loss"], kernel, "valid") for row in rows]
        _band(loss, np.arange(width, rows[0]["steps"] + 1), np.array(losses), **style)
    dice.set(title="Test slices", xlabel="step", ylabel="mean Dice of CSF, GM and WM", ylim=(0, 1))
    loss.set(title="Training", xlabel="step", ylabel=f"loss, mean of {SMOOTHING} steps")
    for axes in (dice, loss):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    dice.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)


def _band(axes: Axes, x: NDArray[Any], curves: NDArray[Any], **style: Any) -> None:
    """Draws the median of curves, shape ``(runs, len(x))``, over their range."""
    low, high = curves.min(axis=0), curves.max(axis=0)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, np.median(curves, axis=0), **style)


def _finished(results: Results) -> dict[str, list[Row]]:
    """Gives the finished runs of each optimizer that has any, in the order of the results."""
    groups: dict[str, list[Row]] = {}
    for row in results["runs"]:
        if row["status"] == "finished":
            groups.setdefault(row["optimizer"], []).append(row)
    return groups


def _unfinished(results: Results) -> list[Row]:
    """Gives the runs that diverged or failed."""
    return [row for row in results["runs"] if row["status"] != "finished"]


def _median(rows: Sequence[Row], field: str) -> float:
    return statistics.median(row[field] for row in rows)


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """Gives the lowest and the highest mean Dice."""
    scores = [row["mean_dice"] for row in rows]
    return min(scores), max(scores)
