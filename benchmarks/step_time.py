"""What there is to know of an optimizer step beside what ``novograd bench`` measures.

Usage, on Linux::

    python benchmarks/step_time.py              # everything, each part in a process of its own
    python benchmarks/step_time.py busy         # one part
    python benchmarks/step_time.py --rounds 5   # a quick look; do not commit what it writes

The parts: a step in bfloat16, one with another process busy on one of the cores, the memory that
one needs beside its state, and the first call in JAX. The optimizers are those of ``novograd
bench``, measured in the same way, on two cores.

The results are printed and written to ``benchmarks/results/step_time_torch.json`` and
``step_time_jax.json``.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from novograd.results import machine

RESULTS = Path(__file__).parent / "results"
CORES, ROUNDS = 2, 30
# For each part, which is the module step_time_PART, the framework that names its result file.
PARTS = {"bfloat16": "torch", "busy": "torch", "memory": "torch", "first_call": "jax"}


def write(part: str, figures: dict[str, Any]) -> None:
    """Puts the figures of a part into its result file."""
    path = RESULTS / f"step_time_{PARTS[part]}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    framework = importlib.import_module(f"novograd.bench.{PARTS[part]}")
    about = {**machine(), "threads": framework.threads(), **framework.VERSIONS}
    now = {**earlier, part: {**about, **figures}}
    path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures one part or, each in a process of its own, all."""
    parser = argparse.ArgumentParser(description="Measures optimizer steps.")
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    given = parser.parse_args()
    if given.part is None:
        for part in PARTS:
            command = [sys.executable, __file__, part, "--rounds", str(given.rounds)]
            subprocess.run(command, check=True)
        return
    # Before the framework is imported, which makes as many threads as there are cores for it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    write(given.part, importlib.import_module(f"step_time_{given.part}").measured(given.rounds))


if __name__ == "__main__":
    main()
