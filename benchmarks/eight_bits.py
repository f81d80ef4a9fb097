"""Compares steps with a momentum buffer in 8 bits with the 8-bit AdamW of two packages.

Usage::

    pip install bitsandbytes torchao
    python benchmarks/eight_bits.py              # 10 rounds
    python benchmarks/eight_bits.py --rounds 3   # a quick look; do not commit what it writes

The weights are those of a GPT-2 small with 2 of its 12 blocks: 53 million, in float32. They are on
the GPU if PyTorch finds one, else on the CPU. In each round every optimizer takes one step. The
state is the memory of all tensors in the optimizer's state. The program prints the results, and
writes them to ``benchmarks/results/eight_bits-PROCESSOR.json``, or to
``benchmarks/results/gpu_eight_bits.json``. A package that is not installed is left out.
"""

import argparse
import importlib
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from parts import keep, result_file
from tables import show
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from novograd.bench import torch as bench
from novograd.bench.peers import Peer, find
from novograd.bench.shapes import gpt2
from novograd.bench.timing import TimedStep, measure, summary
from novograd.bench.torch import BETAS, CANDIDATES, LR, REFERENCE, Gradients

ROUNDS = 10
WARM_UP = 4  # torchao compiles its step for each shape
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PACKAGES = {
    "bitsandbytes' AdamW8bit": Peer(
        "bitsandbytes", lambda: importlib.import_module("bitsandbytes.optim").AdamW8bit
    ),
    "torchao's AdamW8bit": Peer(
        "torchao", lambda: importlib.import_module("torchao.optim").AdamW8bit
    ),
}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yields the tensors in an optimizer's state, and those that make up tensor subclasses."""
    if isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif is_traceable_wrapper_subclass(value):
        for name in value.__tensor_flatten__()[0]:
            yield from tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value


def timed(optimizer: torch.optim.Optimizer, gradients: Gradients) -> TimedStep:
    """Returns the step of an optimizer, until it is complete on the device."""

    def run(_: int) -> None:
        optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return TimedStep(run, gradients.write)


def main() -> None:
    """Measures the steps and the states."""
    parser = argparse.ArgumentParser(description="Compares optimizers with a state in 8 bits.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    rounds = parser.parse_args().rounds
    torch.set_default_device(DEVICE)
    torch.manual_seed(0)
    found = find(PACKAGES)
    for name, reason in found.left_out.items():
        print(f"{name} is left out: {reason}")
    names = (REFERENCE, "NovoGrad, rows", "NovoGrad, rows, int8")
    made = {name: CANDIDATES[name] for name in names}
    made |= {
        name: partial(kind, lr=LR, betas=BETAS, weight_decay=0)
        for name, kind in found.classes.items()
    }
    shapes = gpt2(layers=2)
    gradients = Gradients(shapes)
    optimizers = {name: bench.with_weights(make, gradients) for name, make in made.items()}
    steps = [timed(optimizer, gradients) for optimizer in optimizers.values()]
    figures = summary(
        measure(steps, rounds, WARM_UP), optimizers, {"ratio_to_adamw_fused": REFERENCE}
    )
    size = sum(map(prod, shapes))
    for name, optimizer in optimizers.items():
        memory = {x.untyped_storage().data_ptr(): x.nbytes for x in tensors(dict(optimizer.state))}
        figures[name]["state_bytes_per_weight"] = round(sum(memory.values()) / size, 3)
    show(f"GPT-2 small with 2 blocks, {DEVICE}", figures)
    path = result_file("eight_bits")
    if DEVICE == "cuda":
        path = Path(path.parent, "gpu_eight_bits.json")
        figures = {"device": torch.cuda.get_device_name(), **figures}
    keep(path, "gpt-2 small, 2 blocks", bench, {**found.versions, **figures})


if __name__ == "__main__":
    main()
