"""Train with NovoGrad in a Lightning module, with a schedule and clipping, or with LightningCLI.

    python examples/hosts/lightning_module.py
    python examples/hosts/lightning_module.py cli fit --optimizer=novograd.torch.NovoGrad \
        --optimizer.lr=0.01 --trainer.max_epochs=2

Lightning passes a closure to the optimizer's ``step``. ``NovoGrad.step`` calls it, as required.
"""

import sys

import lightning
import torch
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from novograd.torch import NovoGrad


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.losses = []

    def training_step(self, batch, _):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.losses.append(loss.item())
        return loss

    def train_dataloader(self):
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
        generator = torch.Generator().manual_seed(0)
        return DataLoader(data, batch_size=64, shuffle=True, generator=generator)


class Scheduled(Digits):
    def configure_optimizers(self):
        optimizer = NovoGrad(self.parameters(), lr=0.01, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def report(module):
    """Prints the loss of the first and the last steps."""
    before, after = module.losses[0], sum(module.losses[-10:]) / 10
    print(f"loss {before:.3f} -> {after:.3f}")
    assert after < before / 2


OPTIONS = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "logger": False,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["cli"]:
        # Digits does not define configure_optimizers, so the command line makes the optimizer.
        cli = LightningCLI(
            Digits, args=sys.argv[2:], trainer_defaults=OPTIONS, save_config_callback=None
        )
        assert type(cli.trainer.optimizers[0]) is NovoGrad
        report(cli.model)
    else:
        lightning.seed_everything(0)
        module = Scheduled()
        lightning.Trainer(max_epochs=2, gradient_clip_val=1.0, **OPTIONS).fit(module)
        report(module)
