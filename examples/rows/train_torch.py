"""Train with the variant ``rows`` in PyTorch, with weight decay for matrices only.

python examples/rows/train_torch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from novograd.torch import NovoGrad, no_decay

STEPS, WARMUP = 60, 6


def main():
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images = images.float() / 16
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10))
    # Biases and norms do not decay. As with AdamW, lr * weight_decay is what a step takes off.
    groups = no_decay(model, weight_decay=0.01)
    optimizer = NovoGrad(groups, lr=0.003, variant="rows")
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP),
        ],
        [WARMUP],
    )
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    # One second moment for each output unit, and for each element of a vector.
    shapes = [tuple(optimizer.state[w]["exp_avg_sq"].shape) for w in model.parameters()]
    assert shapes == [(64, 1), (64,), (64,), (64,), (10, 1), (10,)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
