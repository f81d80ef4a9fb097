"""Measures optimizer steps on an NVIDIA GPU: ours with Triton, torch's, published ones and a copy.

Usage::

    python benchmarks/gpu_step.py              # about a minute and a half
    python benchmarks/gpu_step.py --rounds 5   # a quick look; do not commit its results
    python benchmarks/gpu_step.py --only "NovoGrad, rows, int8" --output int8.json
    TRITON_INTERPRET=1 python benchmarks/gpu_step.py --tiny  # tries the program on a CPU

Steps of each optimizer, of torch's fused AdamW and of a device-to-device copy alternate. CUDA
events measure each step, eager and as a replay of a CUDA graph. Eager steps are launched without
waiting for the step before, so their time is the host's time where that is longer. The cache of the
device is overwritten before each step, outside the measured time.

``share_of_copy`` is the bandwidth of a step divided by the bandwidth of the copy. The bandwidth of
a step counts the bytes that the optimizer has to read and write (``bytes_per_weight``), whatever it
really moves. ``host_ms`` is the time until ``step`` returns, with an idle device.

``--only`` names an optimizer and ``--model`` a model that is measured; both may be repeated. Then
nothing is trained at the end. Give another ``--output``, because the file has only these results.

At the end a transformer is trained in bfloat16, to measure the optimizer's share of a training
step. The results of each model are written to ``benchmarks/results/gpu_step.json`` as soon as they
are there.
"""

import argparse
import gc
import time
from collections.abc import Callable, Collection, Iterator
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
from novograd.quantized import BLOCK
from novograd.results import machine
from novograd.torch import NovoGrad
from novograd.torch.backends.triton import INTERPRETED

RESULT = Path(__file__).parent / "results" / "gpu_step.json"
ROUNDS, WARM_UP = 20, 3
COPY = "copy"
ADAMW = partial(bench.ADAMW, capturable=True)
DEVICE = "cpu" if INTERPRETED else "cuda"


# A momentum buffer of numbers in 8 bits, and the scales of its blocks, are read and written.
INT8 = 2 * (1 + 4 / BLOCK)


class Candidate(NamedTuple):
    """An optimizer.

    Attributes:
        make: Makes the optimizer for parameters.
        numbers: How many numbers each step has to read or write for a weight, in its dtype.
        others: Bytes of other dtypes that each step has to read or write for a weight.
        captured: Whether its step can be captured in a graph.
        quick: Whether it is measured with every model.
        half: Whether it is only measured with bfloat16 weights.
    """

    make: Make
    numbers: int
    others: float = 0.0
    captured: bool = True
    quick: bool = True
    half: bool = False


# All that is stored is 3 bytes a weight.
SMALLEST = partial(
    NovoGrad, variant="rows", fused=True, moment_dtype=torch.int8, stochastic_rounding=True
)
CANDIDATES = {
    REFERENCE: Candidate(partial(ADAMW, fused=True), 7),
    "SGD with momentum, fused": Candidate(bench.CANDIDATES["SGD with momentum, fused"], 5),
    "NovoGrad": Candidate(partial(OURS, fused=True), 6),
    "NovoGrad, rows": Candidate(partial(NovoGrad, variant="rows", fused=True), 5),
    "NovoGrad, int8": Candidate(partial(OURS, fused=True, moment_dtype=torch.int8), 4, INT8),
    "NovoGrad, rows, int8": Candidate(
        partial(NovoGrad, variant="rows", fused=True, moment_dtype=torch.int8), 3, INT8
    ),
    "NovoGrad, rows, bfloat16 moment": Candidate(
        partial(NovoGrad, variant="rows", fused=True, moment_dtype=torch.bfloat16), 3, 4.0
    ),
    "NovoGrad, rows, int8, stochastic rounding": Candidate(SMALLEST, 3, INT8, half=True),
    "NovoGrad, foreach": Candidate(partial(OURS, foreach=True), 6, quick=False),
    "NovoGrad of apex, foreach": Candidate(
        partial(OURS, variant="apex", foreach=True), 6, quick=False
    ),
    **{
        name: Candidate(bench.CANDIDATES[name], 6, captured=False, quick=False)
        for name in ("MONAI's Novograd", "timm's NvNovoGrad")
        if name in bench.PEERS.classes
    },
}


class Model(NamedTuple):
    """The weights of a model.

    Attributes:
        shapes: Makes the shapes of the weights.
        dtype: The dtype of weights, gradients and state.
        quick: Whether only the quick candidates are measured.
    """

    shapes: Callable[[], Shapes]
    dtype: torch.dtype = torch.float32
    quick: bool = True


large = partial(gpt2, 2048, 24, 2048)
MODELS = {
    "GPT-2 small": Model(gpt2, quick=False),
    "GPT-2 small, bfloat16": Model(gpt2, torch.bfloat16),
    "1,000 x 64": Model(tiny),
    "transformer, 1.3 B": Model(large),
    "transformer, 1.3 B, bfloat16": Model(large, torch.bfloat16),
    "ResNet-50": Model(resnet50),
}
TINY_MODELS = {
    "tiny": Model(lambda: [(32, 128), (64,)], quick=False),
    "tiny, bfloat16": Model(lambda: [(32, 128), (64,)], torch.bfloat16),
}


def optimizer_of(candidate: Candidate, model: Model) -> torch.optim.Optimizer:
    """Makes an optimizer and takes its first step."""
    params = [
        torch.nn.Parameter(torch.randn(shape, device=DEVICE, dtype=model.dtype))
        for shape in model.shapes()
    ]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = candidate.make(params)
    optimizer.step()
    return optimizer


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """Captures a step in a graph, and returns the graph's replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def weights_of(model: Model) -> int:
    """Returns the number of weights."""
    return sum(map(prod, model.shapes()))


def copying(model: Model) -> Callable[[], Any]:
    """Returns a copy that reads and writes 6 numbers of each weight."""
    size = 3 * model.dtype.itemsize * weights_of(model)
    source, target = (torch.ones(size, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    return partial(target.copy_, source)


class Clock:
    """Measures calls on the device, without waiting for it.

    Attributes:
        seconds: Waits for the device, and returns the seconds between all marks in pairs.
    """

    def __init__(self) -> None:
        """Creates a clock without marks."""
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Marks the present moment of the device."""
        if DEVICE == "cpu":
            self._marks.append(time.perf_counter())
        else:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()

    def seconds(self) -> np.ndarray:
        """Waits for the device, and returns the seconds from each mark to the next."""
        if DEVICE == "cpu":
            return np.diff(self._marks)
        torch.cuda.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return np.array([begin.elapsed_time(end) / 1e3 for begin, end in pairs])


def measured(calls: list[Callable[[], Any]], rounds: int) -> np.ndarray:
    """Makes each call once a round, and returns the seconds, of shape (rounds, calls)."""
    beyond = torch.ones(2 * _cache(), dtype=torch.uint8, device=DEVICE)
    clock = Clock()
    for _ in range(WARM_UP + rounds):
        for call in calls:
            beyond.zero_()
            clock.mark()
            call()
            clock.mark()
    seconds = np.append(clock.seconds(), 0.0)[::2]
    return seconds.reshape(-1, len(calls))[WARM_UP:]


def _cache() -> int:
    """Returns the size of the device's cache in bytes."""
    if DEVICE == "cpu":
        return 1
    return torch.cuda.get_device_properties(0).L2_cache_size


def host_ms(step: Callable[[], Any], rounds: int) -> float:
    """Returns the median milliseconds until a step returns, with an idle device."""
    taken = []
    for _ in range(WARM_UP + rounds):
        _wait()
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return round(1e3 * float(np.median(taken[WARM_UP:])), 3)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def compared(
    candidate: Candidate, model: Model, rounds: int
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yields each kind of step: the seconds of candidate, reference and copy, and the host's."""
    mine, theirs = (optimizer_of(x, model).step for x in (candidate, CANDIDATES[REFERENCE]))
    copy = copying(model)
    yield "eager", measured([mine, theirs, copy], rounds), host_ms(mine, rounds)
    if candidate.captured and DEVICE == "cuda":
        replay = captured(mine)
        seconds = measured([replay, captured(theirs), copy], rounds)
        yield "graph", seconds, host_ms(replay, rounds)


def memory_of(candidate: Candidate, model: Model) -> float:
    """Returns the peak of temporary memory during a step, in bytes a weight."""
    step = optimizer_of(candidate, model).step
    _wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    _wait()
    extra = torch.cuda.max_memory_allocated() - before
    return round(extra / weights_of(model), 3)


def state_bytes(candidate: Candidate, model: Model) -> float:
    """Returns the bytes of the optimizer's state for each weight."""
    states = optimizer_of(candidate, model).state.values()
    tensors = [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
    return round(sum(x.nbytes for x in tensors) / weights_of(model), 3)


def freed() -> None:
    """Frees the memory of finished measurements."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def model_figures(model: Model, rounds: int, only: Collection[str] = ()) -> Figures:
    """Measures the candidates, or only some of them, with the weights of a model."""
    figures: Figures = {}
    for name, candidate in CANDIDATES.items():
        if name not in only if only else model.quick and not candidate.quick:
            continue
        if candidate.half and model.dtype != torch.bfloat16:
            continue
        try:
            figures |= candidate_figures(name, candidate, model, rounds)
        except Exception as error:  # of any kind: the other optimizers can still be measured
            figures[name] = {"failed": f"{type(error).__name__}: {error}"}
        freed()
    return figures


def candidate_figures(name: str, candidate: Candidate, model: Model, rounds: int) -> Figures:
    """Measures one candidate, eager and as a graph."""
    figures: Figures = {}
    each = candidate.numbers * model.dtype.itemsize + candidate.others
    size = each * weights_of(model)
    copied = 6 * model.dtype.itemsize * weights_of(model)
    for kind, seconds, host in compared(candidate, model, rounds):
        other = REFERENCE if name != REFERENCE else "again"
        row = summary(seconds, (name, other, COPY), {"ratio_to_adamw_fused": other})
        bandwidth = size / seconds[:, 0] / (copied / seconds[:, 2])
        figures[f"{name}, {kind}"] = row[name] | {
            "terabytes_per_second": round(float(size / np.median(seconds[:, 0])) / 1e12, 3),
            "share_of_copy": round(float(np.median(bandwidth)), 3),
            "bytes_per_weight": round(each, 3),
            "host_ms": host,
        }
    freed()
    figures[f"{name}, eager"]["state_bytes_per_weight"] = state_bytes(candidate, model)
    freed()
    if DEVICE == "cuda":
        figures[f"{name}, eager"]["extra_bytes_per_weight"] = memory_of(candidate, model)
    return figures


class Transformer(torch.nn.Module):
    """A causal language model as large as GPT-2 small."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12, words: int = 50257):
        """Makes the weights, in bfloat16."""
        super().__init__()
        options: dict[str, Any] = {"device": DEVICE, "dtype": torch.bfloat16}
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


def share_of_step(
    candidate: Candidate, model: torch.nn.Module, batch: int, length: int, rounds: int
) -> dict[str, float]:
    """Trains, and returns the milliseconds of a training step and of its optimizer step."""
    optimizer = candidate.make(list(model.parameters()))
    words = torch.randint(100, (batch, length + 1), device=DEVICE)
    clock = Clock()
    for _ in range(WARM_UP + rounds):
        clock.mark()
        optimizer.zero_grad()
        model(words).backward()
        clock.mark()
        optimizer.step()
    clock.mark()
    gradients, own = clock.seconds().reshape(-1, 2)[WARM_UP:].T
    whole = np.median(gradients + own)
    return {
        "step_ms": round(1e3 * float(whole), 3),
        "optimizer_ms": round(1e3 * float(np.median(own)), 3),
        "share": round(float(np.median(own) / whole), 4),
    }


def trained_figures(is_tiny: bool, rounds: int) -> Figures:
    """Measures the optimizer's share of the training of a transformer."""
    figures: Figures = {}
    make = partial(Transformer, 16, 1, 2, 100) if is_tiny else Transformer
    for name in (REFERENCE, "NovoGrad", "NovoGrad, rows"):
        torch.manual_seed(0)
        batch, length = (1, 8) if is_tiny else (8, 1024)
        figures[name] = share_of_step(CANDIDATES[name], make(), batch, length, rounds)
        freed()
    return figures


def main() -> None:
    """Measures everything, writes the result file and prints the tables."""
    parser = argparse.ArgumentParser(description="Measures optimizer steps on a GPU.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--tiny", action="store_true", help="try the program with tiny models")
    parser.add_argument("--output", type=Path, default=RESULT, help="the result file")
    models = MODELS | TINY_MODELS
    parser.add_argument("--only", action="append", choices=CANDIDATES, help="an optimizer")
    parser.add_argument("--model", action="append", choices=models, help="a model")
    args = parser.parse_args()
    if DEVICE == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    import triton  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    about: dict[str, Any] = {"triton": triton.__version__, **bench.VERSIONS}
    if DEVICE == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "device": properties.name,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
        }
    results: dict[str, Figures] = {}
    content = {**machine(), **about, "rounds": args.rounds, "results": results}
    for name in args.model or (TINY_MODELS if args.tiny else MODELS):
        results[name] = model_figures(models[name], args.rounds, args.only or ())
        show(name, results[name])
        write(args.output, content)
    if args.only or args.model:
        return
    title = "a transformer of 124 M weights, trained in bfloat16"
    results[title] = trained_figures(args.tiny, args.rounds)
    show(title, results[title])
    write(args.output, content)


if __name__ == "__main__":
    main()
