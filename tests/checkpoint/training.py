"""Training that continues in another framework: weights, gradients, hyperparameters.

A source takes ``STEPS`` steps and is saved after ``SAVED``. It writes its weights to an archive.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from novograd import checkpoint, reference, variants
from novograd.conformance.cases import CaseHyperparameters
from novograd.conformance.peers import PEERS, Gradient, State

SAVED, STEPS = 10, 20
SHAPES = {"kernel": (5, 4), "bias": (4,), "gain": ()}
NAMES = list(SHAPES)
IN_ORDER = {name: name for name in NAMES}
LR, WEIGHT_DECAY = 0.05, 0.02


def start() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {n: np.asarray(random.standard_normal(s), np.float32) for n, s in SHAPES.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng([1, step])
    return {n: np.asarray(random.standard_normal(s), np.float32) for n, s in SHAPES.items()}


def betas(variant: str) -> tuple[float, float]:
    """Returns decay rates that differ from the defaults, so that a test fails if they are lost."""
    return (0.9, 0.5) if variant != "apex-inf" else (0.8, 0.75)


def hyperparameters(variant: str) -> CaseHyperparameters:
    beta1, beta2 = betas(variant)
    return CaseHyperparameters(
        learning_rate=LR,
        beta1=beta1,
        beta2=beta2,
        epsilon=variants.get(variant).eps,
        weight_decay=WEIGHT_DECAY,
        grad_averaging=variants.get(variant).grad_averaging,
    )


def options(read: checkpoint.Checkpoint) -> checkpoint.Hyperparameters:
    """Returns the options for the target: those that were read, and those that files lack."""
    known, hyper = read.groups[0].hyperparameters, hyperparameters(read.variant.name)
    given = asdict(hyper) | {"lr": hyper.learning_rate}
    missing = {name: given[name] for name, value in vars(known).items() if value is None}
    return replace(known, **missing)


def simulated(variant: str, first: int, state: dict[str, State]) -> dict[str, State]:
    """Takes ten float64 steps of a peer that cannot be installed, according to its source code."""
    hyper = hyperparameters(variant)
    for step in range(first, first + SAVED):
        for name, g in gradients(step).items():
            state[name] = PEERS[variant](state[name], Gradient(np.float64(g), step + 1, 1.0), hyper)
    return state


def simulate(
    folder: Path, row: str, variant: str, save: Callable[[dict[str, State]], None]
) -> None:
    """Simulates a peer that cannot be installed, and saves files in its layout."""
    begin = {name: State(np.float64(w), 0 * w, 0.0, 0.0) for name, w in start().items()}
    half = simulated(variant, 0, begin)
    save(half)
    middle = {name: np.float32(x.w) for name, x in half.items()}
    end = simulated(variant, SAVED, half)
    record(folder, row, middle, {name: x.w for name, x in end.items()})


def record(
    folder: Path, row: str, middle: dict[str, np.ndarray], end: dict[str, np.ndarray]
) -> None:
    """Writes the weights after SAVED steps and after STEPS steps."""
    arrays = {f"middle/{n}": x for n, x in middle.items()} | {f"end/{n}": x for n, x in end.items()}
    np.savez(folder / f"{row}.npz", **arrays)


def neutral(folder: Path, row: str, suffix: str = ".source", **arguments) -> None:
    """Reads a source and writes it in the neutral form."""
    read = checkpoint.read(folder / f"{row}{suffix}", weights=True, lr=LR, **arguments)
    assert list(read.entries) == NAMES
    checkpoint.write(read, folder / f"{row}.safetensors", "safetensors")


def sources(folder: Path) -> dict[str, checkpoint.Checkpoint]:
    """Returns all sources in the neutral form, by row."""
    return {
        file.stem: checkpoint.read(file, "safetensors", weights=True)
        for file in sorted(folder.glob("*.safetensors"))
    }


def recorded(folder: Path, row: str, which: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{row}.npz") as arrays:
        return {name: arrays[f"{which}/{name}"] for name in NAMES}


def ulps(weights: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Returns the largest difference in float32 units in the last place of the largest weight."""
    scale = max(np.abs(x).max() for x in expected.values()) * np.finfo(np.float32).eps
    return float(max(np.abs(np.float64(weights[n]) - expected[n]).max() for n in NAMES) / scale)


def save(folder: Path, row: str, target: str, weights: dict[str, np.ndarray]) -> None:
    """Writes the final weights of a target."""
    np.savez(folder / f"{row} to {target}.npz", **weights)


def saved(folder: Path, row: str, target: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{row} to {target}.npz") as arrays:
        return dict(arrays)


def documented(states: dict[str, State]) -> dict[str, np.ndarray]:
    """Takes ten steps of the documented rule with the oracle, after ten steps of another rule."""
    hyper = hyperparameters("documented")
    weights = {}
    for name, (w, m, v, _) in states.items():
        for step in range(SAVED, STEPS):
            w, m, v = reference.step(w, m, v, gradients(step)[name], **asdict(hyper))
        weights[name] = w
    return weights
