"""Draw the statistics of a healthy and of an unhealthy run: the picture in docs/statistics.md.

python examples/tensorboard/picture.py docs/images/statistics.png
"""

import math
import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from novograd.torch import NovoGrad, layer_statistics

STEPS, WARMUP = 120, 12
RATES = {"healthy, lr 0.01": 0.01, "unhealthy, lr 3": 3.0}
SHOWN = ("loss", "update_ratio", "root_v", "clipped")


def run(lr):
    """Returns the statistics of the hidden layer after each step."""
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images = images.float() / 16
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimizer = NovoGrad(model.named_parameters(), lr, variant="rows")
    found = []
    for step in range(STEPS):
        chosen = torch.randint(len(images), (64,))
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        rise = min(1.0, (step + 1) / WARMUP)
        optimizer.param_groups[0]["lr"] = lr * rise * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.step()
        statistics = layer_statistics(optimizer)["2.weight"]._asdict()
        found.append(statistics | {"loss": loss.item()})
    return found


def main(path):
    figure, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
    for (label, lr), style in zip(RATES.items(), ("-", "--"), strict=True):
        found = run(lr)
        for axis, name in zip(axes.flat, SHOWN, strict=True):
            axis.plot([one[name] for one in found], style, label=label, linewidth=1.4)
            axis.set_title(name, loc="left")
            if name != "clipped":
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter("")
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("step")
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(sys.argv[1])
