"""Chooses the learning rates of ``novograd compare``: a grid of five for each optimizer.

Writes ``benchmarks/results/brain_learning_rates.json``. Usage::

    python benchmarks/brain_learning_rates.py

Every optimizer gets the same number of rates, steps and seeds, and the best is the one with the
highest mean Dice over the seeds. The seeds are not among those of the job. The test slices are the
same: that favours every optimizer alike, and a third set of slices would cost a third of the brain.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from novograd.compare.report import Display
from novograd.compare.runner import STEPS, Run, compare

RESULT = Path(__file__).parent / "results" / "brain_learning_rates.json"
SEEDS = (100, 101)
GRID = {
    "novograd": (0.003, 0.01, 0.02, 0.03, 0.1),
    "adam": (0.003, 0.01, 0.02, 0.03, 0.1),
    "momentum": (0.01, 0.03, 0.1, 0.3, 1.0),
}


def score(runs: list[dict[str, Any]]) -> float:
    """Gives the mean Dice over the runs of one learning rate; a run that diverged counts as 0."""
    return statistics.mean(run.get("mean_dice", 0.0) for run in runs)


def main() -> None:
    """Runs the grid and writes the result."""
    runs = [
        Run("tensorflow", optimizer, rate, seed, STEPS)
        for optimizer, rates in GRID.items()
        for rate in rates
        for seed in SEEDS
    ]
    with (
        tempfile.TemporaryDirectory() as directory,
        Display(Console(markup=False), runs) as display,
    ):
        results = compare(runs, jobs=2, path=Path(directory) / "results.json", watch=display)
    if results["status"] != "finished":
        raise SystemExit("interrupted: nothing written")
    rows = results["runs"]
    if failed := [row for row in rows if row["status"] == "failed"]:
        raise SystemExit(f"a run failed, nothing written: {failed[0]['error']}")
    scores = {
        optimizer: {
            rate: score(
                [r for r in rows if (r["optimizer"], r["learning_rate"]) == (optimizer, rate)]
            )
            for rate in rates
        }
        for optimizer, rates in GRID.items()
    }
    for row in rows:
        del row["loss"], row["evaluations"]
    chosen = {name: max(by_rate, key=by_rate.__getitem__) for name, by_rate in scores.items()}
    RESULT.write_text(
        json.dumps({**results, "mean_dice": scores, "chosen": chosen}, indent=1) + "\n",
        encoding="utf-8",
    )
    for name, by_rate in scores.items():
        print(name, ", ".join(f"{rate:g}: {dice:.3f}" for rate, dice in by_rate.items()))
    print("chosen:", chosen)


if __name__ == "__main__":
    main()
