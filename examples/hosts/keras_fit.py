"""Train with NovoGrad in Keras: compile, fit, save, load, fit again. Works on any backend.

KERAS_BACKEND=jax python examples/hosts/keras_fit.py
"""

import tempfile
from pathlib import Path

import keras
from sklearn.datasets import load_digits

from novograd.keras import NovoGrad


def main():
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(NovoGrad(0.01, weight_decay=1e-3), loss)
    first = model.fit(images, labels, 64, epochs=2, verbose=0).history["loss"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        model = keras.saving.load_model(path)  # with the state of the optimizer
    assert type(model.optimizer) is NovoGrad
    assert int(model.optimizer.iterations) == 2 * 29
    second = model.fit(images, labels, 64, epochs=2, verbose=0).history["loss"]
    print(f"loss {first[0]:.3f} -> {second[-1]:.3f}")
    assert second[-1] < first[0] / 2


if __name__ == "__main__":
    main()
