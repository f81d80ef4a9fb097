"""Compares training with different layers (whole parameters, rows, elements), AdamW and SGD.

Writes ``benchmarks/results/layer_kinds.json`` and shows it as tables. Usage::

    python benchmarks/layer_kinds.py

Runs that are already in the file are not repeated, so the program can be interrupted.

There are two tasks: a transformer that predicts the next character of Python's documentation, and
the brain segmentation of ``novograd compare``. The learning rate of every recipe is searched in the
same way: from a first guess in factors of 3, then in factors of the square root of 3, until both
neighbours of the best rate are worse. A recipe that differs little from a recipe with a known best
rate starts at that rate, and uses only the smaller factors. The search uses one seed; the best rate
is then run with other seeds. The search uses the same validation data as the result, which favours
every recipe alike.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "cpu"}  # read when imported

import keras
import torch
from rich.console import Console
from rich.table import Table
from tables import WIDTH
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from novograd.compare import torch as compare
from novograd.compare.tasks import brain, text
from novograd.compare.training import schedule, train
from novograd.layers import Layers, Rows, Split
from novograd.results import machine
from novograd.torch import NovoGrad

RESULT = Path(__file__).parent / "results" / "layer_kinds.json"
SEARCH_SEED = 100


# -- recipes: an optimizer and its settings, except the learning rate ----------------------------


class AdamRows(torch.optim.Optimizer):
    """AdamW without weight decay, with one second moment for each row: the mean over its elements.

    It combines the layers of NovoGrad with ``Rows`` and the formula of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Accepts arguments of AdamW."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Takes one step; a closure is not supported."""
        del closure
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                state = self.state[param]
                square = param.grad.square()
                if param.ndim > 1:
                    square = square.flatten(1).mean(1).view(-1, *[1] * (param.ndim - 1))
                if not state:
                    state |= {"step": 0, "m": torch.zeros_like(param), "v": 0 * square}
                state["step"] += 1
                m = state["m"].lerp_(param.grad, 1 - beta1) / (1 - beta1 ** state["step"])
                v = state["v"].lerp_(square, 1 - beta2) / (1 - beta2 ** state["step"])
                param -= group["lr"] * m / (v.sqrt() + group["eps"])


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "NovoGrad": NovoGrad,
    "AdamW": torch.optim.AdamW,
    "AdamRows": AdamRows,
    "SGD": torch.optim.SGD,
}


def _parts(name: str, param: Tensor, rows: int) -> Layers:
    """Splits the fused projection of attention into queries, keys and values."""
    return Split((param.shape[rows] // 3,) * 3, rows) if "in_proj" in name else None


# Functions of a weight's name, the weight, and its axis of rows.
LAYERS: dict[str, Callable[[str, Tensor, int], Layers]] = {
    "whole": lambda *_: None,
    "parts": _parts,
    "whole, rms": lambda *_: Rows((), "rms"),
    "rows": lambda _, __, rows: Rows(rows, "norm"),
    "rows, rms": lambda _, __, rows: Rows(rows, "rms"),
    "columns, rms": lambda *_: Rows(1, "rms"),
    "elements": lambda _, param, __: Rows(tuple(range(param.ndim)), "rms"),
}


@dataclass(frozen=True)
class Recipe:
    """An optimizer with all settings except the learning rate.

    Attributes:
        optimizer: A key of ``OPTIMIZERS``.
        settings: The optimizer's arguments.
        layers: A key of ``LAYERS``, for NovoGrad.
        but: Other layers for some kinds of weights.
        ratios: Factors of the learning rate for some kinds of weights.
    """

    optimizer: str
    settings: Mapping[str, Any]
    layers: str | None = None
    but: Mapping[str, str] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)

    def build(self, params: Iterable[tuple[str, Tensor]], task: "Task") -> torch.optim.Optimizer:
        """Makes the optimizer for a task's named parameters."""
        groups: dict[float, dict[str, Any]] = {}
        for name, param in params:
            ratio = self.ratios.get(task.kind(name, param), 1.0)
            group = groups.setdefault(ratio, {"params": [], "ratio": ratio})
            group["params"].append((name, param))
        settings = dict(self.settings)
        if usual := self.layers:
            settings["layers"] = lambda name, param: LAYERS[
                self.but.get(task.kind(name, param), usual)
            ](name, param, task.rows)
        optimizer = OPTIMIZERS[self.optimizer](groups.values(), lr=1.0, **settings)
        optimizer.register_step_pre_hook(_apply_ratios)
        return optimizer


def _apply_ratios(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Multiplies each group's learning rate by its factor; the rates have just been set anew."""
    for group in optimizer.param_groups:
        group["lr"] *= group["ratio"]


def novograd(layers: str, betas: tuple[float, float] = (0.9, 0.98), **options: Any) -> Recipe:
    """Returns a recipe of NovoGrad; ``options`` are ``but``, ``ratios`` and its arguments."""
    more = {name: options.pop(name) for name in ("but", "ratios") if name in options}
    return Recipe("NovoGrad", {"betas": betas, "foreach": True, **options}, layers, **more)


def adamw(beta1: float = 0.9, beta2: float = 0.999) -> Recipe:
    """Returns a recipe of AdamW, with torch's defaults."""
    return Recipe("AdamW", {"betas": (beta1, beta2)})


def sgd(beta1: float = 0.9) -> Recipe:
    """Returns a recipe of SGD with Nesterov momentum."""
    return Recipe("SGD", {"momentum": beta1, "nesterov": True})


# -- the tasks ------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """Predicts the next character: 2 blocks of width 64 with 4 heads and pre-normalisation."""

    context = 64

    def __init__(self, characters: int, width: int = 64) -> None:
        """Draws the weights: matrices and embeddings with a standard deviation of 0.02."""
        super().__init__()
        self.token = nn.Embedding(characters, width)
        self.position = nn.Embedding(self.context, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, characters)
        self.mask = nn.Transformer.generate_square_subsequent_mask(self.context)
        for param in self.parameters():
            if param.ndim > 1:
                nn.init.normal_(param, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (batch, context, characters) for int64 characters (batch, context)."""
        x = self.token(x) + self.position.weight
        for block in self.blocks:
            x = block(x, src_mask=self.mask, is_causal=True)
        return self.output(self.norm(x))


def run_text(recipe: Recipe, rate: float, seed: int, steps: int = 600) -> float:
    """Trains on the text, and returns the loss on the validation part, in nats per character."""
    torch.manual_seed(seed)
    read = text.load()
    training, validation = torch.from_numpy(read.training), torch.from_numpy(read.test)
    model = Transformer(read.characters)
    optimizer = recipe.build(model.named_parameters(), TEXT)
    window = torch.arange(model.context + 1)

    def loss(starts: Tensor, part: Tensor) -> Tensor:
        read = part[starts[:, None] + window].long()
        return cross_entropy(model(read[:, :-1]).flatten(0, 1), read[:, 1:].flatten())

    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule("cosine", step, steps, rate)
        optimizer.zero_grad()
        found = loss(torch.randint(len(training) - model.context, (16,)), training)
        found.backward()
        optimizer.step()
        if not math.isfinite(found.item()):
            return math.inf
    with torch.no_grad():
        starts = torch.arange(0, len(validation) - model.context, model.context)
        return loss(starts, validation).item()


def kind_in_text(name: str, param: Tensor) -> str:
    """Returns the kind of a weight: the part of the transformer to which it belongs."""
    if param.ndim == 1:
        return "vectors"
    parts = {"self_attn": "attention", "linear": "mlp", "output": "output"}
    return next((kind for part, kind in parts.items() if part in name), "embeddings")


def run_brain(recipe: Recipe, rate: float, seed: int, steps: int = 200) -> float:
    """Trains on the brain task, and returns one minus the mean Dice of the test slices."""
    trainer = compare.trainer_of(
        brain.TASK, lambda named, _: (recipe.build(named, BRAIN), {}), seed
    )
    rates = (schedule("cosine", step, steps, rate) for step in range(1, steps + 1))
    *_, result = train(brain.TASK, trainer, rates, seed, steps)
    return 1 - result["metrics"]["mean Dice"] if result["status"] == "finished" else math.inf


def kind_in_brain(_: str, param: Tensor) -> str:
    """Returns the kind of a weight: kernels, or vectors (biases and weights of norms)."""
    return "vectors" if param.ndim == 1 else "kernels"


class Task(NamedTuple):
    """A task.

    Attributes:
        run: Trains with a recipe, a learning rate and a seed, and returns a score; lower is better.
        kind: Returns the kind of a named weight.
        rows: The axis of the output units.
        seeds: The seeds for the best learning rate.
        score: The name of the column in the tables, and a function from the score to its value.
    """

    run: Callable[[Recipe, float, int], float]
    kind: Callable[[str, Tensor], str]
    rows: int
    seeds: Sequence[int]
    score: tuple[str, Callable[[float], float]]


TEXT = Task(run_text, kind_in_text, 0, (0, 1, 2), ("nats", lambda loss: loss))
BRAIN = Task(run_brain, kind_in_brain, -1, (0, 1), ("Dice", lambda loss: 1 - loss))
TASKS = {"text": TEXT, "brain": BRAIN}


# -- the tables -----------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A line of a table.

    Attributes:
        recipe: The recipe.
        guess: The start of the search: a power of the square root of 3; or the name of another
            entry, to start at its best rate and use only factors of the square root of 3.
        seeds: Whether the best rate is also run with the other seeds.
    """

    recipe: Recipe
    guess: int | str
    seeds: bool = False


RMS = "rows, rms"
RECIPE = novograd(RMS, but={"embeddings": "elements"})
TABLES: dict[str, dict[str, Entry]] = {
    "text": {
        "whole tensors": Entry(novograd("whole"), -6, True),
        "rows": Entry(novograd("rows"), -6, True),
        RMS: Entry(novograd(RMS), -14, True),
        "AdamW": Entry(adamw(), -10, True),
        "SGD": Entry(sgd(), -4, True),
        "embeddings by elements": Entry(RECIPE, RMS, True),
        "elements": Entry(novograd("elements"), RMS, True),
        "queries, keys, values split": Entry(novograd("parts"), "whole tensors", True),
        "AdamW by rows": Entry(Recipe("AdamRows", {}), "AdamW", True),
        "AdamW, beta2 .98": Entry(adamw(0.9, 0.98), "AdamW"),
        **{
            f"{kind} by elements": Entry(novograd(RMS, but={kind: "elements"}), RMS)
            for kind in ("output", "attention", "mlp")
        },
        "embeddings by columns": Entry(novograd(RMS, but={"embeddings": "columns, rms"}), RMS),
        **{f"beta2 {beta2}": Entry(novograd(RMS, (0.9, beta2)), RMS) for beta2 in (0.99, 0.999)},
        "epsilon 1e-16": Entry(novograd(RMS, eps=1e-16), RMS),
        **{
            f"{kind} x {ratio}": Entry(novograd(RMS, ratios={kind: ratio}), RMS)
            for kind in ("embeddings", "output", "vectors")
            for ratio in (0.3, 3.0)
        },
        "whole tensors, rms": Entry(novograd("whole, rms"), RMS),
        "weight decay .1": Entry(novograd(RMS, weight_decay=0.1), RMS),
        "whole tensors, beta1 .95": Entry(novograd("whole", (0.95, 0.98)), "whole tensors"),
        "rows, beta1 .95": Entry(novograd("rows", (0.95, 0.98)), "rows"),
        "rows, rms, beta1 .95": Entry(novograd(RMS, (0.95, 0.98)), RMS),
        "AdamW, beta1 .95": Entry(adamw(0.95), "AdamW"),
        "SGD, momentum .95": Entry(sgd(0.95), "SGD"),
    },
    "brain": {
        "whole tensors": Entry(novograd("whole"), -6, True),
        "rows": Entry(novograd("rows"), -6, True),
        RMS: Entry(novograd(RMS), -14, True),
        "AdamW": Entry(adamw(), -8, True),
        "SGD": Entry(sgd(), -2, True),
    },
}


# -- the result file ------------------------------------------------------------------------------


class Results:
    """The finished runs. The file is written after each run, so that no run is repeated.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file, if it exists."""
        self._path = path
        self._content: dict[str, Any] = {"runs": []}
        if path.exists():
            self._content = json.loads(path.read_text(encoding="utf-8"))
        self._known = {self._key(row): row["score"] for row in self._content["runs"]}

    def score(self, task: str, recipe: Recipe, power: int, seed: int) -> float:
        """Returns the score of a run; does the run if it is not in the file."""
        rate = float(f"{3 ** (power / 2):.3g}")
        row = {"task": task, **asdict(recipe), "learning_rate": rate, "seed": seed}
        row = json.loads(json.dumps(row))  # tuples become lists
        if self._key(row) not in self._known:
            start = time.perf_counter()
            score = TASKS[task].run(recipe, rate, seed)
            row["score"] = round(score, 4) if math.isfinite(score) else None
            row["seconds"] = round(time.perf_counter() - start, 1)
            self._known[self._key(row)] = row["score"]
            self._content = {**about(), "runs": [*self._content["runs"], row]}
            draft = self._path.with_suffix(".part")
            draft.write_text(_dumped(self._content), encoding="utf-8")
            draft.replace(self._path)
        found = self._known[self._key(row)]
        return math.inf if found is None else found

    @staticmethod
    def _key(row: Mapping[str, Any]) -> str:
        return json.dumps({k: v for k, v in row.items() if k not in ("score", "seconds")})


def _dumped(content: Mapping[str, Any]) -> str:
    """Returns JSON with a line for each run."""
    runs = ",\n".join("  " + json.dumps(row) for row in content["runs"])
    rest = json.dumps({**content, "runs": []}, indent=1)
    return rest.replace('"runs": []', f'"runs": [\n{runs}\n ]') + "\n"


def about() -> dict[str, Any]:
    """Returns descriptions of the machine, the versions and the data."""
    read = text.load()
    return {
        **machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "keras": keras.__version__,
        "score": {"text": "nats per character", "brain": "1 - mean Dice"},
        "text": {
            "train": len(read.training),
            "validation": len(read.test),
        },
    }


def search(score: Callable[[int], float], guess: int, factors: Sequence[int]) -> int:
    """Returns the best power of the square root of 3.

    Args:
        score: Returns the score of a power; lower is better.
        guess: The first power to try.
        factors: Distances to neighbours. For each distance in order, the search moves to the best
            neighbour until both neighbours are worse.

    Example:
        >>> search(lambda power: abs(power + 3), 2, (2, 1))
        -3
    """
    for factor in factors:
        while (best := min((guess, guess - factor, guess + factor), key=score)) != guess:
            guess = best
    return guess


def line(results: Results, task: str, name: str) -> tuple[int, list[float]]:
    """Does the runs of a line of a table, and returns its best power and the scores there.

    The first score is from the search.
    """
    entry = TABLES[task][name]

    def score(power: int) -> float:
        return results.score(task, entry.recipe, power, SEARCH_SEED)

    if isinstance(entry.guess, str):
        power = search(score, line(results, task, entry.guess)[0], (1,))
    else:
        power = search(score, entry.guess, (2, 1))
    seeds = TASKS[task].seeds if entry.seeds else ()
    return power, [score(power), *(results.score(task, entry.recipe, power, s) for s in seeds)]


def main() -> None:
    """Does the missing runs, and shows the tables."""
    torch.set_num_threads(1)
    results = Results(RESULT)
    for task, entries in TABLES.items():
        unit, show = TASKS[task].score
        table = Table(title=f"{task}: {unit}")
        for column in ("", "learning rate", "search", "median", "range"):
            table.add_column(column, justify="right" if column else "left")
        for name in entries:
            power, (first, *others) = line(results, task, name)
            shown = sorted(map(show, others))
            spread = f"{shown[0]:.3f} to {shown[-1]:.3f}" if shown else ""
            middle = f"{statistics.median(shown):.3f}" if shown else ""
            table.add_row(name, f"{3 ** (power / 2):.2g}", f"{show(first):.3f}", middle, spread)
        Console(width=WIDTH).print(table)


if __name__ == "__main__":
    main()
