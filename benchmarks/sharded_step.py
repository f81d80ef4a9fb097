"""Measures optimizer steps with sharded weights: two processes on CPUs, with gloo.

Usage, on Linux::

    python benchmarks/sharded_step.py
    python benchmarks/sharded_step.py --rounds 5   # a quick look; do not commit what it writes

Every weight is a DTensor that is sharded along its first axis over two processes of one core each,
as by ``fully_shard``. Each optimizer of a table has its own weights and state; all read the same
gradients. In each round every optimizer takes one step. Each step begins at a barrier, and its time
is that in the slower process. Figures are medians; a ratio is the median of the ratios within each
round. The two processes share the machine's memory bandwidth, and gloo uses the loopback device.

The program prints the results, and writes them to ``benchmarks/results/sharded_step.json``.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tables import show
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.multiprocessing.spawn import spawn

from novograd.bench.runner import write
from novograd.bench.shapes import Shapes, gpt2, resnet50
from novograd.bench.timing import TimedStep, measure, summary
from novograd.layers import Rows
from novograd.results import machine
from novograd.torch import NovoGrad

RESULT = Path(__file__).parent / "results" / "sharded_step.json"
WORLD, WARM_UP, ROUNDS = 2, 4, 30
REFERENCE = "AdamW, fused"
ADAMW = partial(torch.optim.AdamW, lr=1e-3, betas=(0.95, 0.98), weight_decay=0.0)
OURS = partial(NovoGrad, lr=1e-3, betas=(0.95, 0.98))
CANDIDATES = {
    REFERENCE: partial(ADAMW, fused=True),
    "AdamW, foreach": partial(ADAMW, foreach=True),
    "NovoGrad": OURS,
    "NovoGrad, foreach": partial(OURS, foreach=True),
    "NovoGrad, rows": partial(OURS, layers=Rows()),
}
# GPT-2 small without AdamW's foreach, whose temporary tensors need too much memory.
TABLES: dict[str, tuple[Shapes, set[str]]] = {
    "ResNet-50, 161 tensors": ([shape[::-1] for shape in resnet50()], set()),
    "GPT-2 small, 148 tensors": (gpt2(), {"AdamW, foreach"}),
}


def table(shapes: Shapes, left_out: set[str], rounds: int) -> tuple[np.ndarray, dict[str, int]]:
    """Measures one table in this process.

    Returns:
        Seconds in the slower process, of shape (rounds, optimizers); and for each optimizer the
        number of collectives in a step.
    """
    mesh = init_device_mesh("cpu", (WORLD,))
    gradients = [
        distribute_tensor(torch.randn(shape), mesh, [Shard(0)], src_data_rank=None)
        for shape in shapes
    ]
    steps, collectives = [], {}
    for name, make in CANDIDATES.items():
        if name in left_out:
            continue
        weights = [torch.nn.Parameter(gradient.clone()) for gradient in gradients]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer = make(weights)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives[name] = communication.get_total_counts()
        steps.append(
            TimedStep(lambda _, optimizer=optimizer: optimizer.step(), lambda _: dist.barrier())
        )
    seconds = torch.from_numpy(measure(steps, rounds, WARM_UP))
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds.numpy(), collectives


def process(rank: int, folder: str, rounds: int) -> None:
    """Measures all tables; the first process prints the tables and writes the file."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    results: dict[str, Any] = {}
    for title, (shapes, left_out) in TABLES.items():
        seconds, collectives = table(shapes, left_out, rounds)
        figures = summary(seconds, collectives, {"ratio_to_adamw_fused": REFERENCE})
        for name, count in collectives.items():
            figures[name]["collectives"] = count
        results[title] = figures
        if rank == 0:
            show(f"{title}, {WORLD} processes", figures)
    if rank == 0:
        about = {"torch": torch.__version__, "processes": WORLD, "rounds": rounds}
        write(RESULT, {**machine(), **about, "results": results})
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Starts the processes."""
    parser = argparse.ArgumentParser(description="Measures optimizer steps of sharded weights.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        spawn(process, (folder, rounds), WORLD)


if __name__ == "__main__":
    main()
