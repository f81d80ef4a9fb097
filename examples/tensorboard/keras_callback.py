"""Log the statistics of NovoGrad to TensorBoard, by a callback of Keras. Works on any backend.

KERAS_BACKEND=jax python examples/tensorboard/keras_callback.py runs/keras
tensorboard --logdir runs
"""

import math
import sys
import tempfile

import keras
from sklearn.datasets import load_digits
from tensorboard.summary import Writer

from novograd.keras import NovoGrad, layer_statistics


class LogStatistics(keras.callbacks.Callback):
    """Logs the statistics at the end of each epoch: Keras does not keep the gradients."""

    def __init__(self, folder):
        super().__init__()
        self.writer = Writer(folder)

    def on_epoch_end(self, epoch, logs=None):
        for name, found in layer_statistics(self.model.optimizer).items():
            for what, value in found._asdict().items():
                if not math.isnan(value):  # `clipped` needs the gradients
                    self.writer.add_scalar(f"{what}/{name}", value, epoch)

    def on_train_end(self, logs=None):
        self.writer.close()


def main(folder):
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(NovoGrad(0.003, variant="rows"), loss)
    log = LogStatistics(folder)
    history = model.fit(images / 16, labels, 64, epochs=3, verbose=0, callbacks=[log])
    losses = history.history["loss"]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
