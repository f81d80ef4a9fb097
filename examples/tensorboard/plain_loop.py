"""Log the statistics of NovoGrad to TensorBoard, in a plain loop of PyTorch.

python examples/tensorboard/plain_loop.py runs/plain; tensorboard --logdir runs
"""

import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from novograd.torch import NovoGrad, layer_statistics, no_decay

STEPS, EVERY = 60, 10


def main(folder):
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images = images.float() / 16
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = NovoGrad(no_decay(model, weight_decay=0.01), lr=0.003, variant="rows")
    losses = []
    with SummaryWriter(folder) as writer:
        for step in range(1, STEPS + 1):
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            if step % EVERY == 0:  # after the step, while the gradients are still there
                for name, found in layer_statistics(optimizer).items():
                    for what, value in found._asdict().items():
                        writer.add_scalar(f"{what}/{name}", value, step)
            optimizer.zero_grad()
            losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
