"""Log the statistics of NovoGrad to TensorBoard, by a callback of Lightning.

python examples/tensorboard/lightning_callback.py runs; tensorboard --logdir runs
"""

import sys
import tempfile

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from novograd.torch import NovoGrad, layer_statistics, no_decay


class LogStatistics(lightning.Callback):
    """Logs the statistics every few steps; Lightning keeps the gradients until the next step."""

    def __init__(self, every=10):
        self.every = every

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_number):
        if trainer.global_step % self.every == 0:
            for name, found in layer_statistics(trainer.optimizers[0]).items():
                module.log_dict({f"{what}/{name}": x for what, x in found._asdict().items()})


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

    def configure_optimizers(self):
        return NovoGrad(no_decay(self, weight_decay=0.01), lr=0.003, variant="rows")


def main(folder):
    lightning.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    module = Digits()
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[LogStatistics()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        log_every_n_steps=10,
        logger=TensorBoardLogger(folder, name="lightning"),
        max_epochs=2,
    )
    trainer.fit(module, DataLoader(data, batch_size=64, shuffle=True))
    print(f"loss {module.losses[0]:.3f} -> {module.losses[-1]:.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
