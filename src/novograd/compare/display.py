"""Shows the progress of a comparison in a terminal."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from novograd.compare.optimizers import find
from novograd.compare.plan import Run, first_metric


class Display:
    """Shows a bar for the whole stage, and a line for each active run or each node of a cluster.

    Without a terminal, prints plain lines only: when a stage begins and when a run ends.

    Args:
        console: The console to print to.
    """

    def __init__(self, console: Console) -> None:
        """See the class."""
        self._console = console
        self._done: dict[Run, int] = {}  # steps done
        self._lines: dict[Run, TaskID] = {}
        self._at: dict[Run, str] = {}  # the node of each active run, on a cluster
        self._nodes: dict[str, TaskID] = {}
        self._ended = 0
        self._all: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=14),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]} {task.fields[score]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Shows the bars."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the bars."""
        self._progress.stop()

    def __call__(self, run: Run, event: dict[str, Any]) -> None:
        """Shows an event.

        Args:
            run: The run that the event belongs to.
            event: The event, see ``novograd.compare.runner.compare``.
        """
        show = self._progress
        match event:
            case {"event": "stage", "runs": runs}:
                self._begin_stage(runs)
            case {"event": "start", "node": node}:
                self._at[run] = node
                self._show_nodes()
            case {"event": "start"}:
                self._lines[run] = self._add(_name(run), run.steps)
            case {"event": "step", "step": step, "loss": loss}:
                self._done[run] = step
                show.update(self._lines[run], completed=step, loss=f"loss {loss:.3f}")
            case {"event": "evaluation"}:
                name, score = next(iter(event["metrics"].items()))
                show.update(self._lines[run], score=f"{name} {score:.3f}")
            case {"event": "result"}:
                self._done[run] = run.steps
                self._ended += 1
                if run in self._lines:
                    show.remove_task(self._lines.pop(run))
                elif self._at.pop(run, None):
                    self._show_nodes()
                ended = f"({self._ended}/{len(self._done)})"
                self._console.print(f"{_name(run)}: {outcome(event)} {ended}")
        if self._all is not None:
            show.update(self._all, completed=sum(self._done.values()))

    def _begin_stage(self, runs: list[Run]) -> None:
        if self._all is not None:
            self._progress.remove_task(self._all)
        self._done, self._ended = dict.fromkeys(runs, 0), 0
        steps = sum(run.steps for run in runs)
        self._all = self._add(f"all {len(runs)} runs of this stage", steps)
        if self._progress.disable:
            self._console.print(f"{len(runs)} runs, {steps:,} steps")

    def _show_nodes(self) -> None:
        """Shows how many runs each node does."""
        counts = Counter(self._at.values())
        for node in {*counts, *self._nodes}:
            if node not in self._nodes:
                self._nodes[node] = self._add("", None)
            shown = f"{node}: {counts[node]} run{'s' * (counts[node] != 1)}"
            self._progress.update(self._nodes[node], description=shown, visible=counts[node] > 0)

    def _add(self, name: str, steps: int | None) -> TaskID:
        return self._progress.add_task(name, total=steps, loss="", score="")


def outcome(row: Mapping[str, Any]) -> str:
    """Describes in a few words how a run ended.

    Args:
        row: A row of the results, or a result event.

    Returns:
        The first metric, the step at which the run diverged, or the error.
    """
    match row["status"]:
        case "finished":
            return f"{next(iter(row['metrics']))} {first_metric(row):.3f}"
        case "diverged":
            return f"diverged at step {row['diverged_at']}"
        case _:
            return f"failed: {row['error']}"


def _name(run: Run) -> str:
    return f"{find(run.optimizer).title} {run.learning_rate:g}, seed {run.seed}"
