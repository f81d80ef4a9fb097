"""On the page for those who change from TensorFlow Addons: before and after train the same."""

import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from novograd.keras import NovoGrad
from tests.helpers.examples import before_and_after
from tests.keras.test_peers import addons

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow Addons runs on TensorFlow only"
)


def test_the_weights_stay_the_same(monkeypatch):
    import tensorflow as tf
    import tf_keras

    optimizers = SimpleNamespace(NovoGrad=addons())
    monkeypatch.setitem(sys.modules, "tensorflow_addons", SimpleNamespace(optimizers=optimizers))
    monkeypatch.setattr(tf, "keras", tf_keras)
    before, after = before_and_after("tensorflow-addons.md")
    assert type(after["optimizer"]) is NovoGrad
    # Keras 2 and 3 draw other initial weights, so compare from equal ones.
    data = np.ones((8, 3)), np.zeros((8, 2))
    weights = [np.linspace(-1, 1, 6).reshape(3, 2), np.zeros(2)]
    found = []
    for made, module in ((before, tf_keras), (after, keras)):
        model = module.Sequential([module.Input((3,)), module.layers.Dense(2)])
        model.set_weights(weights)
        optimizer = type(made["optimizer"]).from_config(made["optimizer"].get_config())
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(*data, epochs=3, verbose=0)
        found.append(model.get_weights())
    for old, new in zip(*found, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-7)
