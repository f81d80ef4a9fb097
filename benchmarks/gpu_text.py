"""Trains a GPT of 21 M weights on Python code with each optimizer, and compares their losses.

Usage::

    python benchmarks/gpu_text.py                      # on a GPU; at most 200 seconds
    python benchmarks/gpu_text.py --device cpu --tiny  # a hundredth of the size, to try the program

The text is the source code of sympy, which PyTorch needs, so that it is installed wherever PyTorch
is. A tenth of the files is held out. A byte-level BPE is trained on other files. The loss is the
mean cross-entropy of a token, in nats.

All optimizers are treated alike. Each gets the same number of learning rates, in factors of 2, with
seed 0. If the best rate is at an end of these, the optimizer gets one rate beyond. Then each runs
at its best rate with other seeds, and only these are compared, because the search favours seed 0.
The search uses the same held-out text as the comparison, which favours every optimizer alike. A
seed determines the first weights and the batches, so the differences are paired by seed. The sums
on a GPU are not deterministic: a repeated run differs a little.

Every optimizer has decoupled weight decay on matrices and embeddings, and none on vectors. The
norm of the whole gradient is clipped to 1. The learning rate rises over the first tenth of the
steps, and falls to a tenth along a cosine. AdamW and NAdamW have the betas that are usual for GPTs,
(0.9, 0.95); NovoGrad has its variant's. Weights are float32, and the model computes in bfloat16 on
a GPU.

The runs are done in rounds, each with all optimizers. If the slowest run so far says that a round
would exceed the budget of seconds, the program stops before it, and records this. The budget does
not include the imports. Each run is appended to ``benchmarks/results/gpu_text.jsonl`` when it
finishes. The summary is ``gpu_text.json`` beside it. With ``--tiny``, both are in the folder for
temporary files. A run that diverges stops early and has no loss (null).
"""

import argparse
import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tables import show
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from novograd.bench.runner import write
from novograd.results import machine
from novograd.torch import NovoGrad, no_decay

Row = dict[str, Any]  # a finished run

RESULT = Path(__file__).parent / "results" / "gpu_text.jsonl"
SECONDS = 200.0
DECAY, CLIP = 0.1, 1.0
WARM_UP, LAST_RATE = 0.1, 0.1  # shares of the steps and of the learning rate
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
SEARCH_SEED, SEEDS = 0, (1, 2, 3)
POINTS = 4  # of a run, at which the validation loss is measured
END = "<end>"  # the token after each file


class Size(NamedTuple):
    """The size of the model, of its batches and of the text.

    Attributes:
        width: The length of a token's vector.
        layers: The number of blocks.
        heads: The number of heads of a block.
        context: The number of tokens that the model sees.
        batch: The number of sequences of a batch.
        words: The number of different tokens.
        every: The text is every nth file.
        validation: The number of held-out sequences on which the loss is measured.
        steps: The number of steps of a run.
    """

    width: int = 512
    layers: int = 6
    heads: int = 8
    context: int = 256
    batch: int = 64
    words: int = 4096
    every: int = 1
    validation: int = 1024
    steps: int = 400


LARGE = Size()
TINY = Size(64, 2, 2, 64, 8, 1024, 40, 64, 40)


class Candidate(NamedTuple):
    """An optimizer.

    Attributes:
        make: Makes the optimizer for parameter groups; called with ``lr``.
        rates: The learning rates of the search, in rising order.
    """

    make: Callable[..., torch.optim.Optimizer]
    rates: Sequence[float] = RATES


BETAS = (0.9, 0.95)
REFERENCE = "AdamW, fused"
CANDIDATES = {
    REFERENCE: Candidate(partial(torch.optim.AdamW, betas=BETAS, fused=True)),
    "NAdamW, foreach": Candidate(
        partial(torch.optim.NAdam, betas=BETAS, decoupled_weight_decay=True, foreach=True)
    ),
    "NovoGrad, rows": Candidate(partial(NovoGrad, variant="rows")),
    "NovoGrad, rows, int8": Candidate(partial(NovoGrad, variant="rows", moment_dtype=torch.int8)),
}


# -- text ----------------------------------------------------------------------------------------


class Text(NamedTuple):
    """The tokens of the files, each file with ``END`` after it."""

    training: Tensor
    validation: Tensor

    def to(self, device: torch.device) -> "Text":
        """Returns the text on a device."""
        return Text(self.training.to(device), self.validation.to(device))


def sources(every: int) -> list[str]:
    """Returns every nth file of sympy, in the order of their paths."""
    root = Path(str(metadata.distribution("sympy").locate_file("sympy")))
    paths = sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())
    return [path.read_text(encoding="utf-8") for path in paths[::every]]


def trained_tokenizer(files: list[str], words: int) -> Tokenizer:
    """Returns a byte-level BPE with that many tokens, trained on every fourth file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(files[::4], trainer)
    return tokenizer


def tokens(tokenizer: Tokenizer, files: list[str]) -> np.ndarray:
    """Returns the tokens of files as one array of uint16."""
    end = tokenizer.token_to_id(END)
    found = [[*one.ids, end] for one in tokenizer.encode_batch_fast(files)]
    return np.concatenate([np.array(ids, np.uint16) for ids in found])


def make_text(size: Size) -> tuple[Text, Row]:
    """Returns the text and facts about it. Every tenth file is held out."""
    begun = time.perf_counter()
    files = sources(size.every)
    held_out = files[9::10]
    files = [file for number, file in enumerate(files) if number % 10 != 9]
    tokenizer = trained_tokenizer(files, size.words)
    training, validation = (tokens(tokenizer, some) for some in (files, held_out))
    facts = {
        "source": f"sympy {metadata.version('sympy')}",
        "files": len(files),
        "held_out_files": len(held_out),
        "bytes": sum(len(file.encode()) for file in files + held_out),
        "words": tokenizer.get_vocab_size(),
        "training_tokens": len(training),
        "validation_tokens": len(validation),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    return Text(*(torch.from_numpy(x.astype(np.int64)) for x in (training, validation))), facts


def windows(text: Tensor, starts: Tensor, size: Size) -> Tensor:
    """Returns sequences of tokens, each one longer than the context."""
    return text[starts[:, None] + torch.arange(size.context + 1, device=text.device)]


# -- model ---------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention to earlier tokens, and two layers for each token, both with norms before them."""

    def __init__(self, width: int, heads: int):
        """Makes the weights."""
        super().__init__()
        self.heads = heads
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns new vectors of the tokens."""
        fused = self.queries_keys_values(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = fused.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """A decoder like GPT-2: learned positions, norms before the layers, tied embeddings."""

    def __init__(self, size: Size):
        """Makes the weights, with GPT-2's distributions."""
        super().__init__()
        self.tokens = nn.Embedding(size.words, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        residual = 0.02 / math.sqrt(2 * size.layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                ends = name.endswith((".projection", ".down"))
                nn.init.normal_(module.weight, std=residual if ends else 0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, words: Tensor) -> Tensor:
        """Returns the mean loss of predicting each token from the tokens before it."""
        x = self.tokens(words[:, :-1]) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())


# -- a run ---------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """A run that is to be done."""

    optimizer: str
    lr: float
    seed: int


def schedule(step: int, steps: int) -> float:
    """Returns the factor of the learning rate in a step, counted from 0.

    Example:
        >>> [round(schedule(step, 100), 2) for step in (0, 4, 9, 55, 99)]
        [0.1, 0.5, 1.0, 0.53, 0.1]
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step + 1 - rise) / (steps - rise)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2


def starts_of(text: Tensor, steps: int, size: Size, seed: int) -> Tensor:
    """Draws where the sequences of all batches start."""
    generator = torch.Generator().manual_seed(seed)
    last = len(text) - size.context
    return torch.randint(last, (steps, size.batch), generator=generator).to(text.device)


def loss_of(model: nn.Module, words: Tensor) -> Tensor:
    """Computes the loss, in bfloat16 on a GPU."""
    kind = words.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        return model(words)


@torch.no_grad()
def validation_loss(model: nn.Module, text: Tensor, size: Size) -> float:
    """Returns the mean loss of sequences that are spread over the held-out text."""
    count = min(size.validation, (len(text) - 1) // size.context)
    last = len(text) - size.context - 1
    starts = torch.linspace(0, last, count, dtype=torch.float64).long().to(text.device)
    parts = starts.split(size.batch)
    losses = torch.stack([loss_of(model, windows(text, part, size)) for part in parts])
    weights = torch.tensor([len(part) for part in parts], device=text.device)
    return ((losses * weights).sum() / count).item()


def wait(device: torch.device) -> float:
    """Waits for the device, and returns the time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Returns the bytes of the optimizer's state."""
    entries = [entry for state in optimizer.state.values() for entry in state.values()]
    return sum(entry.nbytes for entry in entries if isinstance(entry, Tensor))


def fresh(device: torch.device) -> None:
    """Frees the memory of finished runs, and forgets their peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def run(trial: Trial, text: Text, size: Size, steps: int) -> Row:
    """Trains a model, and returns what was measured. Stops early if the loss is not finite."""
    device = text.training.device
    fresh(device)
    begun = wait(device)
    torch.manual_seed(trial.seed)
    with device:
        model = GPT(size)
    optimizer = CANDIDATES[trial.optimizer].make(no_decay(model, DECAY), lr=trial.lr)
    starts = starts_of(text.training, steps, size, trial.seed)
    losses = torch.zeros(steps, device=device)
    points: list[tuple[int, float]] = []
    seconds, before = 0.0, wait(device)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = trial.lr * schedule(step, steps)
        loss = loss_of(model, windows(text.training, starts[step], size))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses[step] = loss.detach()
        if (step + 1) * POINTS // steps > step * POINTS // steps:
            seconds += wait(device) - before
            points.append((step + 1, validation_loss(model, text.validation, size)))
            if not math.isfinite(points[-1][1]):
                break
            before = wait(device)
    done, last = points[-1]
    weights = sum(param.numel() for param in model.parameters())
    recent = losses[:done][-max(1, steps // 10) :].mean().item()
    return {
        **trial._asdict(),
        "steps": done,
        "validation_loss": rounded(last),
        "train_loss": rounded(recent),
        "points": [[step, rounded(loss)] for step, loss in points],
        "seconds": round(wait(device) - begun, 3),
        "step_ms": round(1e3 * seconds / done, 3),
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "state_bytes_per_weight": round(state_bytes(optimizer) / weights, 3),
        "weights": weights,
    }


def rounded(loss: float) -> float | None:
    """Returns a loss for the result file: None if it is not finite."""
    return round(loss, 5) if math.isfinite(loss) else None


# -- the comparison ------------------------------------------------------------------------------


def order(row: Row) -> float:
    """Returns a run's loss; infinity if it diverged."""
    return math.inf if row["validation_loss"] is None else row["validation_loss"]


def searched(rows: list[Row], name: str) -> list[Row]:
    """Returns the runs of an optimizer's search, by rising learning rate."""
    found = [row for row in rows if (row["optimizer"], row["seed"]) == (name, SEARCH_SEED)]
    return sorted(found, key=lambda row: row["lr"])


def best(rows: list[Row], name: str) -> float:
    """Returns the best learning rate of an optimizer's search."""
    return min(searched(rows, name), key=order)["lr"]


def beyond(rows: list[Row], name: str) -> float | None:
    """Returns the next learning rate beyond the best one, if the best one is at an end."""
    rates = [row["lr"] for row in searched(rows, name)]
    return {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}.get(best(rows, name))


def rounds(rows: list[Row]) -> Iterator[tuple[str, list[Trial]]]:
    """Yields the rounds, each with its name. Later rounds depend on the runs in ``rows``."""
    columns = zip(*(candidate.rates for candidate in CANDIDATES.values()), strict=True)
    for number, rates in enumerate(columns, start=1):
        pairs = zip(CANDIDATES, rates, strict=True)
        yield f"search {number}", [Trial(name, rate, SEARCH_SEED) for name, rate in pairs]
    extra = {name: beyond(rows, name) for name in CANDIDATES}
    trials = [Trial(name, rate, SEARCH_SEED) for name, rate in extra.items() if rate is not None]
    if trials:
        yield "extension", trials
    for seed in SEEDS:
        yield f"seed {seed}", [Trial(name, best(rows, name), seed) for name in CANDIDATES]


def compared(rows: list[Row], name: str) -> dict[int, float]:
    """Returns the losses of an optimizer's runs with the other seeds, by seed."""
    return {
        row["seed"]: order(row)
        for row in rows
        if row["optimizer"] == name and row["seed"] != SEARCH_SEED
    }


def difference(rows: list[Row], name: str) -> tuple[float | None, float | None]:
    """Returns the mean of the loss minus the reference's, paired by seed, and its standard error.

    Either is None if there are too few runs, or if one diverged.
    """
    mine, theirs = compared(rows, name), compared(rows, REFERENCE)
    pairs = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    if name == REFERENCE or not pairs or not all(map(math.isfinite, pairs)):
        return None, None
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return statistics.fmean(pairs), error


def summary(rows: list[Row]) -> dict[str, Row]:
    """Returns the result of each optimizer that has runs."""
    found = {}
    for name in CANDIDATES:
        search = searched(rows, name)
        if not search:
            continue
        mine = [row for row in rows if row["optimizer"] == name]
        mean, error = difference(rows, name)
        at_best = {row["seed"]: row for row in mine if row["lr"] == best(rows, name)}
        found[name] = {
            "best_lr": best(rows, name),
            "rates": {row["lr"]: row["validation_loss"] for row in search},
            "extended": len(search) > len(CANDIDATES[name].rates),
            "best_at_an_end": beyond(rows, name) is not None,
            "validation_loss": {seed: row["validation_loss"] for seed, row in at_best.items()},
            "difference": None if mean is None else round(mean, 5),
            "standard_error": None if error is None else round(error, 5),
            "state_bytes_per_weight": search[0]["state_bytes_per_weight"],
            "peak_bytes": search[0]["peak_bytes"],
            "step_ms": round(statistics.median(row["step_ms"] for row in mine), 3),
        }
    return found


def shown(result: Row) -> Row:
    """Returns the result of an optimizer as a row of the table, as text."""
    losses = result["validation_loss"].items()
    error = result["standard_error"]
    within = "" if error is None else f" ± {error:.4f}"
    mean = result["difference"]
    return {
        "best_lr": f"{result['best_lr']:g}{' (at an end)' * result['best_at_an_end']}",
        **{f"seed {seed}": "inf" if loss is None else f"{loss:.4f}" for seed, loss in losses},
        "difference": "" if mean is None else f"{mean:+.4f}{within}",
        "state_bytes_per_weight": result["state_bytes_per_weight"],
        "ms_a_step": result["step_ms"],
    }


def warm(text: Text, size: Size) -> float:
    """Compiles what has to be compiled, and returns the seconds of a warm step."""
    seconds = []
    for name, candidate in CANDIDATES.items():
        trial = Trial(name, candidate.rates[0], SEARCH_SEED)
        run(trial, text, size, POINTS)
        seconds.append(run(trial, text, size, 2 * POINTS)["step_ms"] / 1e3)
    return statistics.fmean(seconds)


def facts(device: torch.device, size: Size, steps: int) -> Row:
    """Returns what the result depends on."""
    return {
        **machine(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "tokenizers": metadata.version("tokenizers"),
        "size": {**size._asdict(), "steps": steps},
        "tokens_per_step": size.batch * size.context,
        "weight_decay": DECAY,
        "clip": CLIP,
    }


def compare(
    text: Text, size: Size, steps: int, deadline: float, done: Callable[[Row], None]
) -> tuple[list[Row], str | None]:
    """Does all rounds for which there is time.

    Args:
        text: The text, on the device.
        size: The size of the model.
        steps: The steps of a run.
        deadline: The time, as ``time.perf_counter`` tells it, that must not be passed.
        done: Called with each finished run.

    Returns:
        The runs, and the name of the round before which the program stopped, if it did.
    """
    rows: list[Row] = []
    for name, trials in rounds(rows):
        needed = len(trials) * max((row["seconds"] for row in rows), default=0.0)
        if time.perf_counter() + needed > deadline:
            return rows, name
        for trial in trials:
            rows.append({"round": name, **run(trial, text, size, steps)})
            done(rows[-1])
    return rows, None


def main() -> None:
    """Compares the optimizers, writes the result files and prints the table."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description="Compares optimizers on a GPT and real text.")
    add = parser.add_argument
    add("--device", default="cuda", help="default: cuda")
    add("--tiny", action="store_true", help="a hundredth of the size")
    add("--steps", type=int, help=f"of a run; default: {LARGE.steps}, or {TINY.steps} with --tiny")
    add("--seconds", type=float, default=SECONDS, help=f"the budget; default: {SECONDS:g}")
    add("--output", type=Path, help="the file of the runs; with --tiny, by default a temporary one")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    if device.type == "cpu":
        torch.set_num_threads(1)  # more threads wait for each other where the cores are shared
    size = TINY if given.tiny else LARGE
    steps = given.steps or size.steps
    if steps < POINTS:
        parser.error(f"--steps must be at least {POINTS}")
    scratch = Path(tempfile.gettempdir()) / "gpu_text_tiny.jsonl"
    output: Path = given.output or (scratch if given.tiny else RESULT)

    text, about_text = make_text(size)
    print(f"text: {about_text}", flush=True)
    text = text.to(device)
    a_step = warm(text, size)
    print(f"a step takes about {1e3 * a_step:.1f} ms, a run {a_step * steps:.1f} s", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as lines:

        def done(row: Row) -> None:
            lines.write(json.dumps(row, allow_nan=False) + "\n")
            lines.flush()
            print(
                f"{row['round']}: {row['optimizer']}, lr {row['lr']:g}, seed {row['seed']}: "
                f"{order(row):.4f} after {row['seconds']:.1f} s",
                flush=True,
            )

        rows, stopped = compare(text, size, steps, begun + given.seconds, done)

    results = summary(rows)
    content = {
        **facts(device, size, steps),
        "weights": rows[0]["weights"] if rows else None,
        "text": about_text,
        "seconds": round(time.perf_counter() - begun, 1),
        "stopped_before": stopped,
        "results": results,
    }
    write(output.with_suffix(".json"), content)
    show("validation loss, nats a token", {name: shown(row) for name, row in results.items()})
    print(f"{content['seconds']:.0f} seconds; the runs are in {output}")
    if stopped:
        print(f"stopped before the round '{stopped}': it would have exceeded the budget")


if __name__ == "__main__":
    main()
