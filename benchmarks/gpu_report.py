"""Tests and measures everything that needs an NVIDIA GPU: ``make gpu-report``.

Usage::

    python benchmarks/gpu_report.py            # at most eight minutes
    python benchmarks/gpu_report.py --seconds 240
    python benchmarks/gpu_report.py --rehearse # tries all parts on a CPU, with tiny models
    python benchmarks/gpu_report.py --only tests,step

The parts run one after the other, the cheapest and most important ones first. A part that fails or
takes too long does not stop the others. The result files are in ``benchmarks/results``, or in the
folder that ``--output`` names: one ``gpu_*.json`` for each part that measures, the output of each
part in ``gpu_report.txt``, and a line for each part in ``gpu_report.jsonl``.

This needs PyTorch with Triton, JAX, pytest with pytest-xdist, and the packages of
``pip install 'novograd-optimizer[compare]'``. The parts import ``novograd`` from ``src``; it need
not be installed. ``compute-sanitizer`` is a program of CUDA. If it is missing, its parts fail.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SECONDS = 480


class Job(NamedTuple):
    """A part of the report.

    Attributes:
        name: Its name in the results.
        command: The command, without the interpreter's own path.
        seconds: The most time that it may take.
        fails: Whether the command must fail.
    """

    name: str
    command: list[str]
    seconds: int
    fails: bool = False


def jobs(output: Path, python: str, rehearse: bool) -> list[Job]:
    """Lists the parts in their order."""
    tiny = ["--tiny"] if rehearse else []
    quick = ["--rounds", "2"] if rehearse else []
    on_cpu = ["--device", "cpu", "--tiny"] if rehearse else []
    sanitizer = [] if rehearse else ["compute-sanitizer", "--error-exitcode", "1"]
    # The checks below run the program of this test again.
    tests = ["tests/gpu", "--ignore", "tests/gpu/test_smallest.py", "-n", "10"]
    tests = ["tests/gpu/test_compiled.py"] if rehearse else [*tests, "-p", "no:benchmark"]

    def measure(program: str, *options: str, suffix: str = "json") -> list[str]:
        result = output / f"{program}.{suffix}"
        return [python, f"benchmarks/{program}.py", *options, "--output", str(result)]

    def check(tool: str, *options: str) -> list[str]:
        with_tool = [*sanitizer, "--tool", tool] if sanitizer else []
        return [*with_tool, python, "-m", "tests.gpu.smallest", *options]

    # Shows that memcheck finds errors.
    planted = [] if rehearse else [Job("an error", check("memcheck", "--with-an-error"), 30, True)]
    compare = [python, "-c", "from novograd.cli import main; main()"]
    compare += ["compare", "brain3d", "--framework", "torch"]
    compare += ["--device", "cpu" if rehearse else "cuda", "--quick", "--jobs", "6"]
    compare += ["--optimizers", "novograd:rows,adamw"]
    compare += ["--steps", "2" if rehearse else "60"]
    return [
        Job("tests", [python, "-m", "pytest", "-q", *tests], 120),
        Job("step", measure("gpu_step", *tiny, *quick), 120),
        Job("step, JAX", measure("gpu_step_jax", *tiny, *quick), 60),
        Job("memcheck", check("memcheck"), 90),
        Job("racecheck", check("racecheck"), 90),
        *planted,
        Job("compare", [*compare, "--output", str(output / "gpu_compare")], 120),
        Job("text", measure("gpu_text", *on_cpu, suffix="jsonl"), 220),
    ]


def run(job: Job, environment: dict[str, str], log: Path) -> dict[str, Any]:
    """Runs a part. Appends its output to the log, and returns its line of the report."""
    start = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n===== {job.name}: {' '.join(job.command)}\n")
        file.flush()
        try:
            done = subprocess.run(
                job.command,
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=job.seconds,
                check=False,
            )
            as_wanted = (done.returncode != 0) == job.fails
            result = "passed" if as_wanted else f"ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            result = f"stopped after {job.seconds} s"
        except OSError as error:
            result = f"failed: {error}"
    return {"part": job.name, "result": result, "seconds": round(time.perf_counter() - start, 1)}


def report(chosen: Iterable[Job], seconds: float, output: Path, rehearse: bool) -> bool:
    """Runs the parts while there is time. Returns whether all of them passed."""
    environment = os.environ | {"PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"}
    if rehearse:
        environment |= {"TRITON_INTERPRET": "1"}
    start, passed = time.perf_counter(), True
    for job in chosen:
        left = seconds - (time.perf_counter() - start)
        if left < 10:
            row = {"part": job.name, "result": "not run: no time was left", "seconds": 0.0}
        else:
            limited = job._replace(seconds=min(job.seconds, int(left)))
            row = run(limited, environment, output / "gpu_report.txt")
        passed &= row["result"] == "passed"
        with (output / "gpu_report.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['part']:12} {row['seconds']:7.1f} s  {row['result']}", flush=True)
    return passed


def _path() -> str:
    """Returns the folders of modules: the sources, then the ones that are set already."""
    known = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT / "src"), *([known] if known else [])])


def main() -> int:
    """Runs the parts of the report; returns 1 if one of them did not pass."""
    parser = argparse.ArgumentParser(description="Tests and measures what needs an NVIDIA GPU.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default: {SECONDS}")
    parser.add_argument("--only", help="the parts to run, separated by commas")
    parser.add_argument("--rehearse", action="store_true", help="try all parts on a CPU")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    output = args.output.resolve()
    chosen = jobs(output, sys.executable, args.rehearse)
    if args.only:
        names = args.only.split(",")
        unknown = set(names) - {job.name for job in chosen}
        if unknown:
            known = ", ".join(job.name for job in chosen)
            parser.error(f"--only {args.only}: the parts are {known}")
        chosen = [job for job in chosen if job.name in names]
    for name in ("gpu_report.txt", "gpu_report.jsonl"):
        (output / name).unlink(missing_ok=True)
    return 0 if report(chosen, args.seconds, output, args.rehearse) else 1


if __name__ == "__main__":
    sys.exit(main())
