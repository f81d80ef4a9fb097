"""The network in PyTorch, trained eagerly by ``torch.optim`` and ``novograd.torch``."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from novograd.compare.brain import Slices
from novograd.compare.keras import VERSIONS, loss_of, size, unet
from novograd.compare.training import Trainer
from novograd.torch import NovoGrad

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "novograd": (NovoGrad, {"betas": (0.95, 0.98), "weight_decay": 1e-3}),
    "adam": (torch.optim.Adam, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}


def trainer(optimizer: str, seed: int) -> Trainer:
    """Builds the network and an optimizer of it.

    Args:
        optimizer: One of ``OPTIMIZERS``.
        seed: Seeds the initial weights.

    Returns:
        What ``novograd.compare.training.train`` needs.
    """
    torch.set_num_threads(1)
    model = unet(seed)  # with this backend, a torch.nn.Module
    build, settings = OPTIMIZERS[optimizer]
    update = build(model.parameters(), **settings)

    def step(learning_rate: float, batch: Slices) -> float:
        images, labels = map(torch.from_numpy, batch)
        for group in update.param_groups:
            group["lr"] = learning_rate
        update.zero_grad()
        loss = loss_of(model(images, training=True), labels)
        loss.backward()
        update.step()
        return loss.item()

    @torch.no_grad()
    def predict(slices: Slices) -> tuple[float, NDArray[np.floating]]:
        images, labels = map(torch.from_numpy, slices)
        logits = model(images, training=False)
        return loss_of(logits, labels).item(), logits.numpy()

    return Trainer(
        step,
        predict,
        state_bytes=lambda: size(x for state in update.state.values() for x in state.values()),
        weight_bytes=size(model.parameters()),
        settings=settings,
        versions={"torch": torch.__version__, **VERSIONS},
    )
