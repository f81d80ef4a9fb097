"""Measures what ``novograd compare --cluster`` costs the driver for each run, without training.

Usage: ``python benchmarks/cluster_cost.py HOST:PORT --output benchmarks/results/cluster_cost.json``

The driver plans, submits, collects and saves as usual. The runs on the nodes do nothing: each
returns a row with the losses of many steps at once. Start the cluster with ``ray start``, see
``docs/cluster.md``.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from novograd.compare import cluster, node, runner
from novograd.compare.cluster import Cluster
from novograd.compare.display import Display
from novograd.compare.plan import Settings
from novograd.results import machine

ABOUT = {"title": "", "about": "", "higher_is_better": True, "margin": None, "validated": True}


class NoOp:
    """Stands for ``novograd.compare.node``; it travels to the nodes with the function of a run."""

    PYTHON = node.PYTHON
    versions = staticmethod(node.versions)

    @staticmethod
    def run(spec: dict[str, Any], kind: str) -> dict[str, Any]:
        """Returns a row like that of a real run."""
        numbers = random.Random(spec["seed"])
        metrics = {"accuracy": numbers.random()}
        evaluations = [{"step": i, "held_out_loss": 1.0, "metrics": metrics} for i in range(10)]
        row = {
            "loss": [round(numbers.random(), 6) for _ in range(spec["steps"])],
            "evaluations": evaluations,
            "status": "finished",
            "held_out_loss": 1.0,
            "metrics": metrics,
            "step_ms": 1.0,
            "update_ms": 1.0,
            "state_bytes": 1,
            "weight_bytes": 1,
            "settings": {},
            "versions": {kind: ""},
            "machine": "none",
        }
        return {"row": row, "pictures": None}


def measured(address: str, runs: int, steps: int, output: Path) -> dict[str, Any]:
    """Does runs that do nothing, and returns their cost."""
    settings = Settings("toy", "torch", {"adam": [0.1]}, runs, steps, "cosine", quick=True)
    fresh = runner.begin(settings, ABOUT, 1, "")
    with (
        Cluster(address, 1, 0, []) as executor,
        (output / "printed.txt").open("w") as printed,
        Display(Console(file=printed)) as watch,
    ):
        executor.train("torch", "torch")
        with mock.patch.object(cluster, "node", NoOp):
            memory, cpu, wall = _memory(), time.process_time(), time.perf_counter()
            results = runner.compare(fresh, settings, output, watch, executor)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert [row["status"] for row in results["runs"]] == ["finished"] * runs
    start = time.process_time()
    written = len(runner.dump(results))
    return {
        **machine(),
        "runs": runs,
        "steps of a run": steps,
        "CPU time of the driver for each run, ms": round(1000 * cpu / runs, 3),
        "time for each run, ms": round(1000 * wall / runs, 3),
        "memory of the driver for each run, kB": round((_memory() - memory) / runs, 1),
        "results.json for each run, kB": round(written / 1000 / runs, 1),
        "CPU time of the last save, s": round(time.process_time() - start, 3),
    }


def _memory() -> float:
    """Returns the most memory that this process has had, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description="Measures the cost of the driver.")
    parser.add_argument("address")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(given.address, given.runs, given.steps, Path(folder))
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
