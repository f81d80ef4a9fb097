"""Measures optimizer steps on an NVIDIA GPU: ours with Triton, torch's and MONAI's, and a copy.

Usage::

    python benchmarks/gpu_step.py              # everything; about ten minutes
    python benchmarks/gpu_step.py --rounds 5   # a quick look; do not commit what it writes

Steps of each optimizer and of torch's fused AdamW alternate. CUDA events measure each step, both
eager and as a replay of a CUDA graph. Eager steps are launched without waiting for the one before,
so their time is the host's time where that is longer. The device's cache is overwritten before each
step, outside the measured time. ``copy`` is a device-to-device copy that moves as many bytes as
NovoGrad: 24 a float32 weight, counting reads and writes.

At the end a transformer is trained in bfloat16, to measure the optimizer's share of a training
step.

The program prints the results, and writes them to ``benchmarks/results/gpu_step.json``.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tables import show

from novograd.bench import torch as bench
from novograd.bench.runner import write
from novograd.bench.shapes import Shapes, gpt2, resnet50, tiny
from novograd.bench.timing import Figures, summary
from novograd.bench.torch import OURS, REFERENCE, Make
from novograd.results import machine

RESULT = Path(__file__).parent / "results" / "gpu_step.json"
ROUNDS, WARM_UP = 30, 5
BYTES = bench.BYTES["NovoGrad"]  # for a float32 weight
COPY = "copy"
ADAMW = partial(bench.ADAMW, capturable=True)


class Candidate(NamedTuple):
    """An optimizer.

    Attributes:
        make: Makes the optimizer for parameters.
        compiled: Whether to compile its step.
        captured: Whether its step can be captured in a graph.
    """

    make: Make
    compiled: bool = False
    captured: bool = True


CANDIDATES = {
    REFERENCE: Candidate(partial(ADAMW, fused=True)),
    "AdamW, foreach": Candidate(partial(ADAMW, foreach=True)),
    "SGD with momentum, fused": Candidate(bench.CANDIDATES["SGD with momentum, fused"]),
    "NovoGrad": Candidate(partial(OURS, fused=True)),
    "NovoGrad, foreach": Candidate(partial(OURS, foreach=True)),
    "NovoGrad, foreach, compiled": Candidate(partial(OURS, foreach=True), compiled=True),
    **{name: Candidate(bench.CANDIDATES[name], captured=False) for name in bench.PEERS.classes},
}


MODELS: dict[str, Callable[[], Shapes]] = {
    "ResNet-50": resnet50,
    "GPT-2 small": gpt2,
    "transformer, 1.3 B": partial(gpt2, 2048, 24, 2048),
    "1,000 x 64": tiny,
}


def step_of(candidate: Candidate, shapes: Shapes) -> Callable[[], Any]:
    """Makes an optimizer, takes its first step, and returns its step."""
    params = [torch.nn.Parameter(torch.randn(shape, device="cuda")) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    step = candidate.make(params).step
    step = torch.compile(step) if candidate.compiled else step
    step()
    return step


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """Captures a step in a graph, and returns the graph's replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def copying(shapes: Shapes) -> Callable[[], Any]:
    """Returns a copy of half as many bytes as NovoGrad moves: each byte is read and written."""
    size = BYTES // 2 * sum(map(prod, shapes))
    source, target = (torch.ones(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    return partial(target.copy_, source)


def measured(calls: list[Callable[[], Any]], rounds: int) -> np.ndarray:
    """Makes each call once a round, and returns the seconds, of shape (rounds, calls)."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    beyond = torch.ones(2 * cache, dtype=torch.uint8, device="cuda")
    marks = []
    for _ in range(WARM_UP + rounds):
        for call in calls:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            beyond.zero_()
            begin.record()
            call()
            end.record()
            marks.append((begin, end))
    torch.cuda.synchronize()
    seconds = np.array([begin.elapsed_time(end) / 1e3 for begin, end in marks])
    return seconds.reshape(-1, len(calls))[WARM_UP:]


def compared(candidate: Candidate, shapes: Shapes, rounds: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each kind of step, with the seconds of the candidate, the reference and the copy."""
    mine, theirs = (step_of(x, shapes) for x in (candidate, CANDIDATES[REFERENCE]))
    copy = copying(shapes)
    yield "eager", measured([mine, theirs, copy], rounds)
    if candidate.captured:
        yield "graph", measured([captured(mine), captured(theirs), copy], rounds)


def memory_of(candidate: Candidate, shapes: Shapes) -> float:
    """Returns the peak of temporary memory during a step, in bytes a weight."""
    step = step_of(candidate, shapes)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    return extra / sum(map(prod, shapes))


def freed() -> None:
    """Frees the memory of finished measurements."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def model_figures(shapes: Shapes, rounds: int) -> Figures:
    """Measures all candidates with weights of a model's shapes."""
    figures: Figures = {}
    for name, candidate in CANDIDATES.items():
        try:
            for kind, seconds in compared(candidate, shapes, rounds):
                names = (name, REFERENCE if name != REFERENCE else "again", COPY)
                ratios = {"ratio_to_adamw_fused": names[1], "ratio_to_copy": COPY}
                row = summary(seconds, names, ratios)
                figures[f"{name}, {kind}"] = row[name]
                if name == REFERENCE and kind == "eager":
                    terabytes = BYTES * sum(map(prod, shapes)) / 1e12
                    speed = terabytes / (row[COPY]["ms_median"] / 1e3)
                    figures[COPY] = row[COPY] | {"terabytes_per_second": round(speed, 3)}
            freed()
            figures[f"{name}, eager"]["extra_bytes_per_weight"] = round(
                memory_of(candidate, shapes), 3
            )
        except torch.OutOfMemoryError:
            figures[f"{name}, eager"] = {"left_out": "it needs too much memory"}
        freed()
    return figures


class Transformer(torch.nn.Module):
    """A causal language model as large as GPT-2 small."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12, words: int = 50257):
        """Makes the weights, in bfloat16, on the GPU."""
        super().__init__()
        options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
        self.embedding = torch.nn.Embedding(words, width, **options)
        block = partial(
            torch.nn.TransformerEncoderLayer,
            *(width, heads, 4 * width),
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
            **options,
        )
        self.blocks = torch.nn.ModuleList(block() for _ in range(layers))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Returns the loss of predicting each word from the words before it."""
        x = self.embedding(words[:, :-1])
        mask = torch.nn.Transformer.generate_square_subsequent_mask(
            x.shape[1], device=x.device, dtype=x.dtype
        )
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        logits = x @ self.embedding.weight.T
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())


def share_of_step(candidate: Candidate, rounds: int, batch: int = 8, length: int = 1024) -> Any:
    """Trains, and returns the milliseconds of a training step and of its optimizer step."""
    torch.manual_seed(0)
    model = Transformer()
    optimizer = candidate.make(list(model.parameters()))
    words = torch.randint(50257, (batch, length + 1), device="cuda")
    marks = []
    for _ in range(WARM_UP + rounds):
        begin, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        begin.record()
        optimizer.zero_grad()
        model(words).backward()
        middle.record()
        optimizer.step()
        end.record()
        marks.append((begin, middle, end))
    torch.cuda.synchronize()
    whole, own = np.median(
        [(a.elapsed_time(c), b.elapsed_time(c)) for a, b, c in marks[WARM_UP:]], axis=0
    )
    return {
        "step_ms": round(float(whole), 3),
        "optimizer_ms": round(float(own), 3),
        "share": round(float(own / whole), 4),
    }


def main() -> None:
    """Measures everything, writes the result file and prints the tables."""
    parser = argparse.ArgumentParser(description="Measures optimizer steps on a GPU.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    import triton  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    properties = torch.cuda.get_device_properties(0)
    about = {
        "device": properties.name,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        **bench.VERSIONS,
    }
    results = {}
    for name, shapes in MODELS.items():
        results[name] = model_figures(shapes(), rounds)
        show(name, results[name])
    trained = {}
    for name in (REFERENCE, "NovoGrad", "NovoGrad, foreach"):
        trained[name] = share_of_step(CANDIDATES[name], rounds)
        freed()
    results["GPT-2 small, trained in bfloat16"] = trained
    show("GPT-2 small, trained in bfloat16", trained)
    content = {**machine(), **about, "rounds": rounds, "results": results}
    write(RESULT, content)


if __name__ == "__main__":
    main()
