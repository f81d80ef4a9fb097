"""Trains on four devices of JAX: ``distributed_training.py FILE`` writes the results to the file.

For each optimizer and each layout of the kernels, the results are the variables after training and
the axes of the mesh over which they are sharded. The program also trains on one device.
"""

import pickle
import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np

from novograd.keras import NovoGrad
from novograd.layers import Rows, Split, Stacked

LAYOUTS = {"columns": (None, "model"), "both axes": ("batch", "model")}


def of_kernels(layers):
    return lambda variable: layers if variable.name == "kernel" else None


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.1, amsgrad=True),
    "whole": lambda: NovoGrad(0.1, weight_decay=0.1),
    "rows": lambda: NovoGrad(0.1, layers=Rows()),
    "stacked": lambda: NovoGrad(0.1, layers=of_kernels(Stacked())),
    "split": lambda: NovoGrad(0.1, layers=of_kernels(Split((1, 3), axis=-1))),
    "elements": lambda: NovoGrad(0.1, layers=of_kernels(Rows((0, 1)))),
    "amsgrad": lambda: NovoGrad(0.1, variant="nvidia-amsgrad"),
    "amsgrad, rows": lambda: NovoGrad(0.1, variant="nvidia-amsgrad", layers=Rows()),
}


def scope(layout):
    """Shards variables by a pattern that also matches names of the optimizer's variables."""
    if layout is None:
        return nullcontext()
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*dense.*kernel.*"] = layout
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope()


def train(optimizer, layout, folder):
    """Trains, saves, loads and trains a model. Returns names, shapes, axes and values."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((16, 8)), random.standard_normal((16, 4))
    kernels = random.standard_normal((8, 4)), random.standard_normal((4, 4))
    with scope(layout):
        model = keras.Sequential(
            [keras.Input((8,)), *(keras.layers.Dense(4, name=f"dense_{i}") for i in range(2))]
        )
        for layer, kernel in zip(model.layers, kernels, strict=True):
            layer.kernel.assign(kernel)
        model.compile(optimizer(), loss="mse")
        for _ in range(2):
            model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
            model.save_weights(folder / "model.weights.h5")
            model.load_weights(folder / "model.weights.h5")
        variables = [*model.trainable_variables, *model.optimizer.variables[2:]]
        return [
            (x.path, tuple(x.shape), axes(x.value), np.asarray(keras.ops.convert_to_numpy(x)))
            for x in variables
        ]


def axes(array):
    spec = getattr(array.sharding, "spec", ())
    return [*spec, *[None] * (array.ndim - len(spec))]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    results = {
        (name, layout): train(optimizer, LAYOUTS.get(layout), path.parent)
        for name, optimizer in OPTIMIZERS.items()
        for layout in (*LAYOUTS, "one device")
    }
    path.write_bytes(pickle.dumps(results))
