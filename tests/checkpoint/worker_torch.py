"""Writes and resumes checkpoints of PyTorch and its peers for test_exactness.py."""

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from novograd import checkpoint
from novograd.bench.peers import PEERS
from novograd.torch import NovoGrad
from tests.checkpoint import training
from tests.checkpoint.training import LR, NAMES, SAVED, WEIGHT_DECAY, State, betas


def torch_optimizer():
    return importlib.import_module("torch_optimizer.novograd").NovoGrad


def steps(optimizer, params, first):
    for step in range(first, first + SAVED):
        for param, g in zip(params, training.gradients(step).values(), strict=True):
            param.grad = torch.from_numpy(np.array(g))
        optimizer.step()


def parameters(weights):
    return [torch.nn.Parameter(torch.from_numpy(np.array(w))) for w in weights.values()]


def arrays(params):
    return {n: p.detach().numpy().copy() for n, p in zip(NAMES, params, strict=True)}


def together(state, weights):
    return {"optimizer": state, "model": weights}


def train(folder, row, make, wrap=together):
    """Trains with an optimizer, saves its file, and records its weights."""
    params = parameters(training.start())
    optimizer = make(params)
    steps(optimizer, params, 0)
    middle = arrays(params)
    weights = dict(zip(NAMES, (p.detach().clone() for p in params), strict=True))
    torch.save(wrap(optimizer.state_dict(), weights), folder / f"{row}.source")
    steps(optimizer, params, SAVED)
    training.record(folder, row, middle, arrays(params))


def lightning(state, weights):
    return {
        "epoch": 1,
        "global_step": SAVED,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": weights,
        "optimizer_states": [state],
        "lr_schedulers": [],
    }


def options(variant, **more):
    return {"lr": LR, "betas": betas(variant), "weight_decay": WEIGHT_DECAY, **more}


def group_of(variant, **more):
    hyper = training.hyperparameters(variant)
    return {
        "lr": LR,
        "betas": betas(variant),
        "eps": hyper.epsilon,
        "weight_decay": WEIGHT_DECAY,
        "grad_averaging": hyper.grad_averaging,
        "step": SAVED,
        "params": [0, 1, 2],
        **more,
    }


def save(folder, row, state, group, states):
    weights = {name: torch.tensor(np.float32(x.w)) for name, x in states.items()}
    content = {"state": state, "param_groups": [group]}
    torch.save({"optimizer": content, "model": weights}, folder / f"{row}.source")


def save_apex(folder, row, variant, states: dict[str, State]):
    inf = variant.endswith("inf")
    norms = torch.tensor([x.v if inf else x.v**0.5 for x in states.values()])
    moments = {i: {"exp_avg": torch.tensor(np.float32(x.m))} for i, x in enumerate(states.values())}
    more = {
        "bias_correction": True,
        "norm_type": 0 if inf else 2,
        "init_zero": False,
        "exp_avg_sq": [torch.zeros(0), norms.float()],
    }
    save(folder, row, moments, group_of(variant, **more), states)


def save_pytorch_optimizer_3(folder, row, variant, states: dict[str, State]):
    state = {
        i: {"moments": torch.tensor(np.float32(x.m)), "grads_ema": torch.tensor(np.float32(x.v))}
        for i, x in enumerate(states.values())
    }
    more = {"weight_decouple": False, "fixed_decay": False}
    save(folder, row, state, group_of(variant, **more), states)


def write(folder):
    """Makes every source of PyTorch, and converts it to the neutral form."""
    timm, monai, pytorch_optimizer = (
        PEERS[name].load()
        for name in ("timm's NvNovoGrad", "MONAI's Novograd", "pytorch_optimizer's NovoGrad")
    )
    rows = {}

    def peer(row, kind, make, **arguments):
        train(folder, row, make, **arguments)
        rows[row] = {"kind": kind, "names": NAMES}

    nvidia = options("nvidia")
    peer("timm", "timm", lambda p: timm(p, **nvidia))
    peer("timm, amsgrad", "timm", lambda p: timm(p, amsgrad=True, **nvidia))
    peer("timm, decoupled", "timm", lambda p: timm(p, decoupled_decay=True, **nvidia))
    peer("monai", "monai", lambda p: monai(p, grad_averaging=True, **nvidia))
    peer("nemo", "nemo", lambda p: monai(p, **nvidia), wrap=lightning)
    peer("torch-optimizer", "torch-optimizer", lambda p: torch_optimizer()(p, **nvidia))
    peer(
        "pytorch-optimizer",
        "pytorch-optimizer",
        lambda p: pytorch_optimizer(p, grad_averaging=True, **nvidia),
    )
    row = "pytorch-optimizer 3"
    saver = partial(save_pytorch_optimizer_3, folder, row, "pytorch-optimizer-3")
    training.simulate(folder, row, "pytorch-optimizer-3", saver)
    rows[row] = {"kind": "pytorch-optimizer", "names": NAMES}
    for row in ("apex", "apex-inf", "apex-inside", "apex-inside-inf"):
        training.simulate(folder, row, row, partial(save_apex, folder, row, row))
        rows[row] = {"kind": "apex", "names": NAMES, "variant": row}
    for variant in ("documented", "nvidia-amsgrad", "tfa", "flashlight"):
        row = f"torch, {variant}"
        named = lambda p, v=variant: NovoGrad(  # noqa: E731
            zip(NAMES, p, strict=True), variant=v, **options(v)
        )
        train(folder, row, named)
        rows[row] = {"kind": "torch"}
    for row, arguments in rows.items():
        training.neutral(folder, row, **arguments)


def rows_of_keras(layers, _, w):
    """Returns the layers of a variant; rows are on the last axis, as in JAX and Keras."""
    return replace(layers, axes=-1) if layers and w.ndim else None


def resume(folder):
    """Continues from every source, as docs/checkpoints.md shows."""
    for row, read in training.sources(folder).items():
        path = folder / f"{row}.pt"
        checkpoint.write(read, path, "torch")
        saved = torch.load(path, weights_only=True)
        params = [torch.nn.Parameter(saved["model"][name]) for name in NAMES]
        known = training.options(read)
        betas = known.beta1, known.beta2
        optimizer = NovoGrad(
            params,
            known.lr,
            betas,
            known.epsilon,
            known.weight_decay,
            known.grad_averaging,
            variant=read.variant,
            layers=partial(rows_of_keras, read.variant.layers),
        )
        state = saved["optimizer"]
        if checkpoint.unknown(read):  # the optimizer above has these options
            state |= {"param_groups": optimizer.state_dict()["param_groups"]}
        optimizer.load_state_dict(state)
        steps(optimizer, params, SAVED)
        training.save(folder, row, "torch", arrays(params))


if __name__ == "__main__":
    {"write": write, "resume": resume}[sys.argv[1]](Path(sys.argv[2]))
