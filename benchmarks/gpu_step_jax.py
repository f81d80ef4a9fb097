"""Measures optimizer steps on a GPU with JAX: ours and optax's, compiled.

Usage::

    python benchmarks/gpu_step_jax.py         # about half a minute
    python benchmarks/gpu_step_jax.py --tiny  # tries the program, also on a CPU

All optimizers take ten steps each in turn. The weights and the state are donated. The time of a
step is a tenth of the time until the tenth result is there. ``terabytes_per_second`` counts 24
bytes a weight for NovoGrad and 28 for AdamW, whatever XLA really moves.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import jax
from tables import show

from novograd.bench import jax as bench
from novograd.bench.runner import write
from novograd.bench.shapes import Shapes, gpt2
from novograd.bench.timing import Figures, TimedStep, measure, summary
from novograd.results import machine

RESULT = Path(__file__).parent / "results" / "gpu_step_jax.json"
ROUNDS, WARM_UP, STEPS = 10, 2, 10
ADAMW = "optax.adamw"
CANDIDATES = {
    name: bench.CANDIDATES[name]
    for name in (bench.REFERENCE, ADAMW, "NovoGrad, step", "NovoGrad, rows, step")
}
MODELS = {"GPT-2 small": gpt2}
TINY_MODELS = {"tiny": lambda: [(64, 9), (64,)]}


class Steps(bench.Training):
    """Some steps of an optimizer with its own weights and state."""

    def run(self, _: int) -> None:
        """Takes the steps, and waits for the result of the last one."""
        for _ in range(STEPS):
            self._params, self._state = self._step(self._params, self._state, self._gradients)
        jax.block_until_ready(self._params)


def figures_of(shapes: Shapes, rounds: int) -> Figures:
    """Measures all candidates with the weights of a model."""
    gradients = bench.drawn(shapes)
    made = {name: Steps(*one, gradients) for name, one in CANDIDATES.items()}
    seconds = measure([TimedStep(steps.run) for steps in made.values()], rounds, WARM_UP) / STEPS
    ratios = {"ratio_to_optax_novograd": bench.REFERENCE, "ratio_to_optax_adamw": ADAMW}
    figures = summary(seconds, made, ratios)
    size = sum(map(math.prod, shapes))
    for name, row in figures.items():
        terabytes = (28 if name == ADAMW else 24) * size / 1e12
        row["terabytes_per_second"] = round(terabytes / (row["ms_median"] / 1e3), 3)
    return figures


def main() -> None:
    """Measures everything, writes the result file and prints the tables."""
    parser = argparse.ArgumentParser(description="Measures optimizer steps with JAX on a GPU.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--tiny", action="store_true", help="try the program with a tiny model")
    parser.add_argument("--output", type=Path, default=RESULT, help="the result file")
    args = parser.parse_args()
    device = jax.devices()[0]
    if device.platform != "gpu" and not args.tiny:
        parser.error("JAX finds no GPU")
    results: dict[str, Any] = {}
    about = {**machine(), "device": device.device_kind, **bench.VERSIONS, "rounds": args.rounds}
    for name, shapes in (TINY_MODELS if args.tiny else MODELS).items():
        results[name] = figures_of(shapes(), args.rounds)
        show(name, results[name])
        write(args.output, {**about, "results": results})


if __name__ == "__main__":
    main()
