"""Train with NovoGrad in a loop of accelerate, and compare a resumed run with an uninterrupted one.

python examples/hosts/accelerate_loop.py
"""

import tempfile

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from novograd.torch import NovoGrad


def make(accelerator):
    """Returns a prepared model, its optimizer and the batches."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = NovoGrad(model.parameters(), lr=0.01, weight_decay=1e-3)
    return accelerator.prepare(model, optimizer, DataLoader(data, batch_size=64))


def epoch(accelerator, model, optimizer, batches):
    """Trains on all batches and returns the losses."""
    losses = []
    for images, labels in batches:
        loss = nn.functional.cross_entropy(model(images), labels)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main():
    accelerator = Accelerator(cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        straight = make(accelerator)
        losses = epoch(accelerator, *straight)
        accelerator.save_state(folder)
        losses += epoch(accelerator, *straight)

        accelerator.free_memory()
        resumed = make(accelerator)
        accelerator.load_state(folder)
        again = epoch(accelerator, *resumed)
    assert again == losses[len(again) :]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
