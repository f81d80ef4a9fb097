"""Measures what each part of the variant ``rows`` brings, and compares it with AdamW and others.

Writes ``benchmarks/results/ablation.json`` and prints tables of it in Markdown. Usage::

    python benchmarks/ablation.py           does the missing runs, then prints the tables
    python benchmarks/ablation.py --show    prints the tables of the runs in the file

A complete measurement takes most of a day on one core. Each finished run is in the file at once,
and runs in the file are not repeated, so the program can be interrupted at any time. The most
important comparisons come first, seed by seed. docs/layers.md has the tables.

The tasks are ``text`` and ``brain`` of ``novograd compare`` in PyTorch, at their own length and at
four times this length. Most recipes differ from ``rows`` in one part. No recipe has weight decay.
The learning rate rises over a tenth of the steps, then follows a cosine, as in ``compare``.

Every recipe's learning rate is searched in the same way: with a seed of its own, from a first guess
in factors of 2, until both neighbours of the best rate are worse. The best rate is then run with
four other seeds, or with more for a few recipes. A seed determines the initial weights and all
batches, so the differences between two recipes are taken seed by seed. The score is that after the
last step, on held-out data. The search uses the same data, which favours every recipe alike.

The stored runs are older than the validation parts of the tasks. So the validation part of ``text``
is held out together with the test part, and that of ``brain`` is used for training.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from novograd import results, variants
from novograd.compare.training import evaluate, schedule
from novograd.layers import Kind, Rows, Split, Whole, row_axes

RESULT = Path(__file__).parent / "results" / "ablation.json"
SEARCH_SEED, SEEDS = 100, (0, 1, 2, 3)
FACTOR, UNIT = 2, 1e-3  # learning rates are UNIT * FACTOR**power


# -- recipes: an optimizer with all settings except the learning rate -----------------------------

WHOLE = Rows((), "rms")  # the whole tensor as one layer, with the steps of Rows(scale="rms")


def _rows(name: str) -> Rows:
    return Rows(row_axes(name.split("/")[-1]), "rms")


def _rows_but(chosen: Callable[[str, Any], bool], other: Kind) -> Callable[[str, Any], Kind]:
    return lambda name, param: other if chosen(name, param) else _rows(name)


def _heads(name: str, param: Any) -> Kind:
    """Splits queries, keys and values, one dense layer in the task ``text``, into their heads."""
    return Split((16,) * 12, -1) if param.shape[-1] == 3 * 64 else _rows(name)


# Functions of a weight's name and the weight, in the layout of Keras.
LAYERS: dict[str, Callable[[str, Any], Kind]] = {
    "rows": lambda name, _: _rows(name),
    "whole": lambda *_: Whole(),
    "whole, rms": lambda *_: WHOLE,
    "embeddings whole": _rows_but(lambda name, _: "embedding" in name, WHOLE),
    "vectors whole": _rows_but(lambda _, param: param.ndim == 1, WHOLE),
    "heads": _heads,
}


@dataclass(frozen=True)
class Recipe:
    """An optimizer with all its settings except the learning rate.

    Attributes:
        optimizer: ``"NovoGrad"`` or a class of ``torch.optim``.
        text: The first guess of the learning rate in the task ``text``, as a power.
        brain: The same in the task ``brain``.
        settings: The optimizer's arguments.
        changes: NovoGrad: the fields that differ from the variant ``rows``.
        layers: NovoGrad: a key of ``LAYERS``.
        weights: NovoGrad: the dtype of the stored weights. The model computes in float32.
    """

    optimizer: str
    text: int
    brain: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    layers: str = "rows"
    weights: str = "float32"

    def build(self, named: Sequence[tuple[str, Any]]) -> Any:
        """Makes the optimizer for named parameters."""
        import torch

        from novograd.torch import NovoGrad

        if self.optimizer != "NovoGrad":
            kind = getattr(torch.optim, self.optimizer)
            return kind([param for _, param in named], lr=0.0, **self.settings)
        choose = LAYERS[self.layers]
        of_model = [param for _, param in named]
        if self.weights != "float32":
            named = [(name, _stored(param, getattr(torch, self.weights))) for name, param in named]
        groups = [
            {"params": [(name, param)], "ratio": _ratio(choose(name, param), param)}
            for name, param in named
        ]
        if all(group["ratio"] == 1 for group in groups):
            groups = [{"params": list(named), "ratio": 1.0}]
        variant = replace(variants.get("rows"), name="changed", **self.changes)
        if "variant" in self.settings:
            variant = variants.get(self.settings["variant"])
        rest = {key: value for key, value in self.settings.items() if key != "variant"}
        if "moment_dtype" in rest:
            rest["moment_dtype"] = getattr(torch, rest["moment_dtype"])
        optimizer = NovoGrad(groups, lr=0.0, variant=variant, layers=choose, **rest)
        optimizer.register_step_pre_hook(_apply_ratios)
        if self.weights != "float32":
            _store_weights(optimizer, [param for _, param in named], of_model)
        return optimizer

    def described(self) -> dict[str, Any]:
        """Returns all that determines a run, as plain data."""
        found: dict[str, Any] = {"optimizer": self.optimizer, "settings": dict(self.settings)}
        if self.optimizer == "NovoGrad":
            found |= {"changes": dict(self.changes), "layers": self.layers}
        if self.weights != "float32":
            found["weights"] = self.weights
        return json.loads(json.dumps(found))  # tuples become lists


def _ratio(layers: Kind, param: Any) -> float:
    """Returns the factor that gives parts the steps of ``Rows(scale="rms")``."""
    if not isinstance(layers, Split):
        return 1.0
    return math.sqrt(param.numel() / len(layers.sizes))


def _apply_ratios(optimizer: Any, *_: Any) -> None:
    """Multiplies each group's learning rate by its factor; the rates have just been set anew."""
    for group in optimizer.param_groups:
        group["lr"] *= group["ratio"]


def _stored(param: Any, dtype: Any) -> Any:
    """Returns the weights of a model in the dtype in which they are stored."""
    import torch

    return torch.nn.Parameter(param.detach().to(dtype))


def _store_weights(optimizer: Any, stored: Sequence[Any], params: Sequence[Any]) -> None:
    """Gives an optimizer of stored weights the gradients of a model, and the model these weights.

    The gradients are rounded to the dtype of the stored weights.
    """

    def take_gradients(*_: Any) -> None:
        for mine, param in zip(stored, params, strict=True):
            mine.grad, param.grad = param.grad.to(mine.dtype), None

    def give_weights(*_: Any) -> None:
        for mine, param in zip(stored, params, strict=True):
            param.data.copy_(mine.detach())

    give_weights()
    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(give_weights)


def rows(text: int = 3, brain: int = 5, layers: str = "rows", **changes: Any) -> Recipe:
    """Returns a recipe that differs from ``rows`` in some fields of the variant or in layers."""
    return Recipe("NovoGrad", text, brain, {}, changes, layers)


def adamw(kind: str = "AdamW", beta2: float = 0.999) -> Recipe:
    """Returns a recipe of AdamW or NAdamW."""
    settings = {"betas": (0.9, beta2), "weight_decay": 0.0}
    if kind == "NAdam":
        settings["decoupled_weight_decay"] = True
    return Recipe(kind, 2, 4, settings)


CORE = {
    "rows": rows(),
    "AdamW": adamw(),
    "NAdamW": adamw("NAdam"),
    "whole tensors": rows(8, 9, layers="whole"),
    "no Nesterov": rows(nesterov=False),
    "no clip": rows(clip=None),
    "clip 1": rows(4, 6, clip=1.0),
    "beta2 .99": rows(beta2=0.99),
}
REST = {
    "clip .7": rows(4, 6, clip=0.7),
    "beta2 .95": rows(beta2=0.95),
    "AdamW, beta2 .98": adamw(beta2=0.98),
    "AdamW, beta2 .95": adamw(beta2=0.95),
    "NAdamW, beta2 .98": adamw("NAdam", 0.98),
    "beta1 .95": rows(beta1=0.95),
    "learning rate in the momentum buffer": rows(rate="moment"),
    "epsilon inside the root": rows(epsilon="inside"),
    "vectors whole": rows(layers="vectors whole"),
    "whole tensors, scale rms": rows(layers="whole, rms"),
    "SGD, Nesterov .9": Recipe("SGD", 7, 8, {"momentum": 0.9, "nesterov": True}),
    "documented rule, betas .9 .98, Nesterov": Recipe(
        "NovoGrad",
        4,
        5,
        {"variant": "documented", "betas": (0.9, 0.98), "nesterov": True},
        layers="whole",
    ),
}
MOMENTS = {
    f"rows, {name} moment": Recipe("NovoGrad", 3, 5, {"moment_dtype": name})
    for name in ("int8", "bfloat16")
}
# With int8, all that is stored is 3 bytes a weight: the weights and the momentum buffer.
BFLOAT16 = {
    "rows, bfloat16 weights at random, int8 moment": Recipe(
        "NovoGrad",
        3,
        5,
        {"moment_dtype": "int8", "stochastic_rounding": True},
        weights="bfloat16",
    ),
    "rows, bfloat16 weights to nearest, int8 moment": Recipe(
        "NovoGrad", 3, 5, {"moment_dtype": "int8"}, weights="bfloat16"
    ),
}
ONLY_TEXT = {
    "embeddings whole": rows(layers="embeddings whole"),
    "heads of attention": rows(layers="heads"),
}
RECIPES = CORE | REST | MOMENTS | BFLOAT16 | ONLY_TEXT


# -- the runs -------------------------------------------------------------------------------------


class Task(NamedTuple):
    """A task.

    Attributes:
        short: Number of steps.
        metric: The metric of the task that is the score.
        sign: 1 if more is better, else -1.
        unit: The metric in headings.
    """

    short: int
    metric: str
    sign: int
    unit: str

    @property
    def long(self) -> int:
        """Number of steps of a long run."""
        return 4 * self.short


TASKS = {
    "text": Task(400, "nats", -1, "nats, less is better"),
    "brain": Task(160, "mean Dice", 1, "mean Dice, more is better"),
}
# Task, whether runs are long, and recipes, in the order of the runs.
STAGES: list[tuple[str, bool, Iterable[str]]] = [
    ("text", False, CORE),
    ("brain", False, CORE),
    ("text", True, ["rows", "AdamW", "clip 1"]),
    ("text", True, ["no clip", "NAdamW"]),
    ("text", False, [*REST, *ONLY_TEXT]),
    ("brain", True, ["rows", "AdamW", "clip 1", "no clip", "NAdamW"]),
    ("brain", False, REST),
    *((task, long, MOMENTS) for long in (False, True) for task in ("text", "brain")),
    *((task, long, BFLOAT16) for long in (False, True) for task in ("text", "brain")),
    ("text", True, [*CORE, *REST, *MOMENTS, *ONLY_TEXT]),
    ("brain", True, [*CORE, *REST, *MOMENTS]),
]


# Recipes so similar that four seeds do not show whether they tie, and where they get how many.
SIMILAR = "rows", "rows, int8 moment"
SIMILAR_STAGES = [("text", False, 16), ("brain", False, 16), ("text", True, 8), ("brain", True, 16)]


def rate_of(power: int) -> float:
    """Returns a learning rate.

    Example:
        >>> rate_of(-1), rate_of(4)
        (0.0005, 0.016)
    """
    return round(UNIT * FACTOR**power, 12)


def _data(name: str) -> tuple[Callable[[int], Iterable[Any]], list[Any]]:
    """Returns a function from a seed to the batches of a task, and the held-out batches."""
    module: Any = import_module(f"novograd.compare.tasks.{name}")
    if name == "text":
        return module.excerpts, module.held_out()
    slabs = np.arange(module.DEPTH) // module.SLAB
    learnt = np.flatnonzero(~np.isin(slabs, module.TEST))
    return lambda seed: module.crops(module.damaged(learnt, seed), seed), module.TASK.test()


def train(name: str, recipe: Recipe, rate: float, seed: int, steps: int) -> float | None:
    """Trains on a task, and returns the score; None if the loss was not finite."""
    os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "cpu"}  # read when imported
    from novograd.compare.torch import trainer_of

    task = import_module(f"novograd.compare.tasks.{name}").TASK
    batches, held_out = _data(name)
    trainer = trainer_of(task, lambda named, _: (recipe.build(named), {}), seed)
    for step, batch in zip(range(1, steps + 1), batches(seed), strict=False):
        if not math.isfinite(trainer.step(schedule("cosine", step, steps, rate), *batch)):
            return None
    found = evaluate(task, trainer, held_out)
    if not math.isfinite(found["held_out_loss"]):
        return None
    return round(found["metrics"][TASKS[name].metric], 4)


class Runs:
    """The finished runs. The file is written after each run.

    Args:
        path: The file.
        training: Whether missing runs are done.
    """

    def __init__(self, path: Path, training: bool) -> None:
        """Reads the file, if it exists."""
        self._path, self._training = path, training
        self._content: dict[str, Any] = {"runs": []}
        if path.exists():
            self._content = json.loads(path.read_text(encoding="utf-8"))
        self._known = {_key(row): row["score"] for row in self._content["runs"]}

    def value(self, task: str, steps: int, name: str, power: int, seed: int) -> float | None:
        """Returns the value of a run, where more is better; minus infinity if it diverged.

        Returns:
            The value; None if the run is missing and missing runs are not done.
        """
        recipe, rate = RECIPES[name], rate_of(power)
        row = {
            "task": task, "steps": steps, **recipe.described(), "learning_rate": rate, "seed": seed
        }  # fmt: skip
        if _key(row) not in self._known:
            if not self._training:
                return None
            start = time.perf_counter()
            row["score"] = train(task, recipe, rate, seed, steps)
            row["seconds"] = round(time.perf_counter() - start, 1)
            self._known[_key(row)] = row["score"]
            self._content = {**_about(), "runs": [*self._content["runs"], row]}
            results.replace(self._path, _dumped(self._content))
            print(f"{task} {steps} {name}: {rate:g}, seed {seed}: {row['score']}", flush=True)
        score = self._known[_key(row)]
        return -math.inf if score is None else TASKS[task].sign * score

    def best(self, task: str, long: bool, name: str) -> int | None:
        """Returns the power of the best learning rate; None if the search is not complete."""
        steps = TASKS[task].long if long else TASKS[task].short
        guess = getattr(RECIPES[name], task)
        if long:  # a longer run needs a smaller rate
            short = self.best(task, False, name)
            if short is None:
                return None
            guess = short - 1
        while True:
            values = {
                power: self.value(task, steps, name, power, SEARCH_SEED)
                for power in (guess, guess - 1, guess + 1)
            }
            known = {power: value for power, value in values.items() if value is not None}
            if len(known) < len(values):
                return None
            found = max(known, key=lambda power: known[power])
            if found == guess:
                return guess
            guess = found

    def judged(self, task: str, long: bool, name: str) -> dict[int, float]:
        """Returns the scores of the best learning rate by seed, as far as they are known."""
        power = self.best(task, long, name)
        return {} if power is None else self._scores(task, long, name, power, SEEDS)

    def similar(self, task: str, long: bool, seeds: Iterable[int]) -> list[dict[int, float]]:
        """Returns the scores of the recipes of ``SIMILAR`` by seed, as far as they are known.

        All have the best learning rate of the first. If each had its own, the differences would
        also be those between the two rates.
        """
        power = self.best(task, long, SIMILAR[0])
        if power is None:
            return [{} for _ in SIMILAR]
        scores: list[dict[int, float]] = [{} for _ in SIMILAR]
        for seed in seeds:
            for name, known in zip(SIMILAR, scores, strict=True):
                known |= self._scores(task, long, name, power, [seed])
        return scores

    def _scores(
        self, task: str, long: bool, name: str, power: int, seeds: Iterable[int]
    ) -> dict[int, float]:
        steps = TASKS[task].long if long else TASKS[task].short
        values = {seed: self.value(task, steps, name, power, seed) for seed in seeds}
        sign = TASKS[task].sign
        return {seed: sign * value for seed, value in values.items() if value is not None}


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in row.items() if k not in ("score", "seconds")})


def _dumped(content: Mapping[str, Any]) -> str:
    """Returns JSON with a line for each run."""
    runs = ",\n".join("  " + json.dumps(row) for row in content["runs"])
    rest = json.dumps({**content, "runs": []}, indent=1)
    return rest.replace('"runs": []', f'"runs": [\n{runs}\n ]') + "\n"


def _about() -> dict[str, Any]:
    versions = {package: version(package) for package in ("torch", "keras")}
    return {**results.machine(), "threads": 1, **versions}


def measure(runs: Runs) -> None:
    """Does all missing runs, stage by stage: first the searches, then seed by seed."""
    for task, long, names in STAGES:
        steps = TASKS[task].long if long else TASKS[task].short
        powers = {name: runs.best(task, long, name) for name in names}
        for seed in SEEDS:
            for name, power in powers.items():
                if power is not None:
                    runs.value(task, steps, name, power, seed)
    for task, long, count in SIMILAR_STAGES:
        runs.similar(task, long, range(count))


# -- the tables -----------------------------------------------------------------------------------


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> str:
    """Returns the mean difference by seed, with its 95 % interval; empty without a common seed.

    Example:
        >>> difference({0: 2.0, 1: 2.25, 2: 2.5}, {0: 1.0, 1: 1.0, 2: 1.0})
        '+1.250 ± 0.621'
        >>> difference({0: 2.0}, {1: 1.0})
        ''
    """
    seeds = sorted(set(one) & set(other))
    if not seeds:
        return ""
    found = [one[seed] - other[seed] for seed in seeds]
    if not all(map(math.isfinite, found)):
        return "a run diverged"
    if len(found) == 1:
        return f"{found[0]:+.3f}, one seed"
    quantile = float(stdtrit(len(found) - 1, 0.975))  # of Student's t
    half = quantile * statistics.stdev(found) / math.sqrt(len(found))
    return f"{statistics.mean(found):+.3f} ± {half:.3f}"


def by_length(runs: Runs, task: str, long: bool) -> str:
    """Returns the table of a task and a length; empty without a run."""
    judged = {name: runs.judged(task, long, name) for name in RECIPES}
    lines = [
        ["", "learning rate", "mean", "by seed", "minus AdamW", "minus `rows`"],
        ["---", "--:", "--:", "---", "--:", "--:"],
    ]
    for name, scores in judged.items():
        power = runs.best(task, long, name)
        if not scores or power is None:
            continue
        lines.append(
            [
                f"`{name}`" if name == "rows" else name,
                f"{rate_of(power):g}",
                f"{statistics.mean(scores.values()):.3f}",
                " ".join(f"{score:.3f}" for score in scores.values()),
                difference(scores, judged["AdamW"]) if name != "AdamW" else "",
                difference(scores, judged["rows"]) if name != "rows" else "",
            ]
        )
    return _table(lines) if len(lines) > 2 else ""


def similar(runs: Runs) -> str:
    """Returns the table of a recipe minus ``rows``, with more seeds and the same rate."""
    lines = [["", "seeds", "minus `rows`"], ["---", "--:", "--:"]]
    for task, long, count in SIMILAR_STAGES:
        rows, other = runs.similar(task, long, range(count))
        seeds = len(rows.keys() & other.keys())
        lines.append([heading(task, long), str(seeds), difference(other, rows)])
    return _table(lines)


# What a part brings: the difference between ``rows`` and the recipe without the part.
PARTS = {
    "rows instead of whole tensors": "whole tensors",
    "Nesterov": "no Nesterov",
    "clip 2 instead of none": "no clip",
    "clip 2 instead of 1": "clip 1",
    "`beta2` .98 instead of .99": "beta2 .99",
    "all of it, instead of AdamW": "AdamW",
    "all of it, instead of NAdamW": "NAdamW",
}


def parts(runs: Runs) -> str:
    """Returns the table of what each part of ``rows`` brings; a positive number is a gain."""
    columns = [(task, long) for task in TASKS for long in (False, True)]
    lines = [["", *(heading(*column) for column in columns)], ["---", *["--:"] * len(columns)]]
    for part, without in PARTS.items():
        cells = []
        for task, long in columns:
            pair = [runs.judged(task, long, name) for name in ("rows", without)]
            gains = [{seed: TASKS[task].sign * x for seed, x in one.items()} for one in pair]
            cells.append(difference(*gains))
        lines.append([part, *cells])
    return _table(lines)


def heading(task: str, long: bool) -> str:
    """Returns the name of a task at a length.

    Example:
        >>> heading("text", True)
        'text, 1,600 steps'
    """
    return f"{task}, {TASKS[task].long if long else TASKS[task].short:,} steps"


def _table(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |".replace("  ", " ") for line in lines)


def tables(runs: Runs) -> Iterator[str]:
    """Yields the tables, each after its heading."""
    yield "What each part brings"
    yield parts(runs)
    yield f"{SIMILAR[1]}, at the learning rate of `rows`, with more seeds"
    yield similar(runs)
    for task, (*_, unit) in TASKS.items():
        for long in (False, True):
            if table := by_length(runs, task, long):
                yield f"{heading(task, long)}: {unit}"
                yield table


def main() -> None:
    """Does the missing runs, and prints the tables."""
    parser = argparse.ArgumentParser(description="Measures what each part of `rows` brings.")
    parser.add_argument("--show", action="store_true", help="only print the tables")
    show = parser.parse_args().show
    runs = Runs(RESULT, training=not show)
    if not show:
        measure(runs)
    print("\n\n".join(tables(Runs(RESULT, training=False))))


if __name__ == "__main__":
    main()
