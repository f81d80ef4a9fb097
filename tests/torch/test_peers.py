"""Comparison with the published classes for PyTorch: timm, MONAI, NeMo and three others."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from novograd import variants
from novograd.torch import NovoGrad
from tests.helpers import published
from tests.helpers.published import Draw, Stored
from tests.helpers.torch import BACKENDS


class Peer(NamedTuple):
    """A published class, its variant, and the names of its state."""

    load: Callable[[], Any]
    variant: str
    amsgrad: bool = True
    m: str = "exp_avg"
    v: str = "exp_avg_sq"
    wide: bool = False  # whether v is float64 for float64 weights
    decoupled: bool = False


def pytorch_optimizer(version: str) -> Any:
    wheel = published.wheel(f"pytorch_optimizer-{version}")
    folder = wheel / "pytorch_optimizer"
    names = {"pytorch_optimizer": folder, "pytorch_optimizer.optimizer": folder / "optimizer"}
    with published.packages(**names):
        return importlib.import_module("pytorch_optimizer.optimizer.novograd").NovoGrad


def timm() -> Any:
    return published.load(published.wheel("timm") / "timm" / "optim", "nvnovograd", "NvNovoGrad")


def monai() -> Any:
    folder = published.installed("monai") / "monai" / "optimizers"
    return published.load(folder, "novograd", "Novograd")


def nemo() -> Any:
    folder = published.wheel("nemo_toolkit") / "nemo" / "core" / "optim"
    return published.load(folder, "novograd", "Novograd")


def torch_optimizer() -> Any:
    folder = published.wheel("torch_optimizer") / "torch_optimizer"
    return published.load(folder, "novograd", "NovoGrad")


KOZISTR: dict[str, Any] = {"amsgrad": False, "m": "moments", "v": "grads_ema", "wide": True}
PEERS = {
    "timm 1.0.31": Peer(timm, "nvidia"),
    "timm 1.0.31, decoupled_decay": Peer(timm, "nvidia-decoupled", decoupled=True),
    "MONAI 1.6.1": Peer(monai, "nvidia"),
    "NeMo 3.0.0": Peer(nemo, "nvidia"),
    "torch-optimizer 0.3.0": Peer(torch_optimizer, "nvidia"),
    "pytorch-optimizer 4.1.0": Peer(
        lambda: pytorch_optimizer("4.1.0"), "pytorch-optimizer", **KOZISTR
    ),
    "pytorch-optimizer 3.10.0": Peer(
        lambda: pytorch_optimizer("3.10.0"), "pytorch-optimizer-3", **KOZISTR
    ),
}


def trained(
    make: Callable[..., torch.optim.Optimizer], run: Draw, dtype: torch.dtype, m: str, v: str
) -> Iterator[Stored]:
    """Yields the weights and the state after each step of a training."""
    params = [torch.nn.Parameter(torch.tensor(w, dtype=dtype)) for w in run.weights]
    optimizer = make(
        params,
        lr=run.rates[0],
        betas=(run.beta1, run.beta2),
        eps=run.epsilon,
        weight_decay=run.weight_decay,
        grad_averaging=run.grad_averaging,
    )
    for rate, gradients in zip(run.rates, run.gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        stored = ([optimizer.state[p][name] for p in params] for name in (m, v))
        yield Stored(*(_arrays(tensors) for tensors in (params, *stored)))


def _arrays(tensors: list[torch.Tensor]) -> list[np.ndarray]:
    return [x.detach().numpy().astype(np.float64, copy=True) for x in tensors]


@cache
def of_peer(name: str, dtype: torch.dtype, seed: int) -> tuple[Stored, ...]:
    peer, run = PEERS[name], published.draw(seed)
    given = {"decoupled_decay": True} if peer.decoupled else {}
    if peer.amsgrad:
        given["amsgrad"] = run.amsgrad
    return tuple(trained(partial(peer.load(), **given), run, dtype, peer.m, peer.v))


# "words" is the NumPy version. float64 shows most differences, and users mostly have float32.
@pytest.mark.parametrize(
    ("dtype", "backend"),
    [*((torch.float64, name) for name in ("words", *BACKENDS)), (torch.float32, "fused")],
    ids=str,
)
@pytest.mark.parametrize("name", PEERS)
def test_the_numbers_equal_those_of_the_peer(name, dtype, backend, record_property):
    peer = PEERS[name]

    def ours(run: Draw) -> Iterator[Stored]:
        changes = {"amsgrad": run.amsgrad} if peer.amsgrad else {}
        if backend == "words":
            return published.words(peer.variant, run, **changes)
        variant = replace(variants.get(peer.variant), **changes)
        make = partial(NovoGrad, variant=variant, **BACKENDS[backend])
        return trained(make, run, dtype, "exp_avg", "exp_avg_sq")

    def found(seed: int) -> dict[str, float]:
        run = published.draw(seed)
        return published.differences(run.weights, ours(run), of_peer(name, dtype, seed))

    of_weights = str(dtype).removeprefix("torch.")
    published.check(
        published.worst(map(found, published.DRAWS)),
        of_weights if peer.wide else "float32",
        record_property,
        *(name, peer.variant, backend, of_weights),
    )


# The variant that has the defaults of the class.
NAMES = {
    "timm": timm,
    "monai": monai,
    "nemo": nemo,
    "torch-optimizer": torch_optimizer,
    "pytorch-optimizer": lambda: pytorch_optimizer("4.1.0"),
    "pytorch-optimizer-3": lambda: pytorch_optimizer("3.10.0"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_has_the_defaults_of_the_class(name):
    theirs = NAMES[name]()([torch.zeros(1)]).param_groups[0]
    ours = NovoGrad([torch.zeros(1)], variant=name).param_groups[0]
    options = ("lr", "betas", "eps", "weight_decay", "grad_averaging")
    assert {x: ours[x] for x in options} == {x: theirs[x] for x in options}
    switches = ("amsgrad", "decoupled_decay", "weight_decouple", "nesterov", "maximize")
    assert not any(theirs.get(switch) for switch in switches)


# Each differs from timm's variant in at least one feature that the trainings use.
@pytest.mark.parametrize("variant", ["nvidia-decoupled", "tfa", "apex-inside", "flashlight"])
def test_the_comparison_detects_another_variant(variant):
    run = published.draw(3)
    theirs = of_peer("timm 1.0.31", torch.float64, 3)
    assert published.differences(run.weights, published.words(variant, run), theirs)["w"] > 1e-3
