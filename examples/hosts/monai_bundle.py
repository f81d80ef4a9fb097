"""Train with NovoGrad from the config of a MONAI bundle, with parameter groups.

    python examples/hosts/monai_bundle.py

The config is ``monai_bundle.json``. The first block of the network has half the learning rate.
"""

from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser

from novograd.torch import NovoGrad


def batch(random):
    """Makes discs in noise (4, 1, 32, 32), and their labels."""
    y, x = np.mgrid[:32, :32]
    centres = random.uniform(8, 24, (4, 2, 1, 1))
    labels = np.hypot(y - centres[:, 0], x - centres[:, 1]) < 6
    images = labels + 0.5 * random.standard_normal(labels.shape)
    return torch.tensor(images[:, None], dtype=torch.float32), torch.tensor(labels[:, None])


def main():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    config = ConfigParser()
    config.read_config(Path(__file__).with_suffix(".json"))
    network, loss_function, optimizer, schedule = (
        config.get_parsed_content(name) for name in ("network", "loss", "optimizer", "schedule")
    )
    assert type(optimizer) is NovoGrad
    print("learning rates:", [group["lr"] for group in optimizer.param_groups])
    losses = []
    for _ in range(40):
        images, labels = batch(random)
        loss = loss_function(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.7 * losses[0]


if __name__ == "__main__":
    main()
