"""The statistics of a step equal what the step did."""

import math
from itertools import cycle

import keras
import numpy as np
import pytest

from novograd.keras import NovoGrad
from novograd.keras.statistics import layer_statistics
from novograd.layers import Rows, Split
from novograd.variants import VARIANTS

STEPS = 3


def trained(**options):
    """Trains, and returns the optimizer, the weights before the last step, and its gradients."""
    random = np.random.default_rng(0)
    shapes = {"kernel": (4, 6), "bias": (6,)}
    variables = [
        keras.Variable(random.standard_normal(shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    ]
    schedule = keras.optimizers.schedules.PolynomialDecay(0.03, STEPS, 0.01)
    optimizer = NovoGrad(schedule, **options)
    for step in range(STEPS):
        before = [np.array(keras.ops.convert_to_numpy(w)) for w in variables]
        gradients = [
            keras.ops.array((1 + step) * random.standard_normal(w.shape), "float32")
            for w in variables
        ]
        optimizer.apply(gradients, variables)
    return optimizer, variables, before, gradients


LAYERS = cycle([None, Split((2, 4), axis=-1), Rows(scale="rms")])


@pytest.mark.parametrize(("variant", "layers"), [*zip(VARIANTS, LAYERS, strict=False)], ids=str)
def test_the_update_is_the_distance_that_the_weights_moved(variant, layers):
    optimizer, variables, before, gradients = trained(variant=variant, layers=layers)
    found = layer_statistics(optimizer, gradients)
    assert list(found) == ["kernel", "bias"]
    for w, old in zip(variables, before, strict=True):
        after = keras.ops.convert_to_numpy(w)
        norm, moved = np.linalg.norm(after), np.linalg.norm(after - old)
        assert found[w.path].weight_norm == pytest.approx(norm, rel=1e-5)
        # A float32 weight of size 1 moves by about 1e-3, which leaves 4 digits.
        assert found[w.path].update_ratio == pytest.approx(moved / norm, rel=1e-3)


def test_clipped_needs_the_gradients():
    optimizer, *_, gradients = trained(variant="rows")
    found = layer_statistics(optimizer, gradients)
    assert 0 < found["kernel"].clipped <= 1
    assert math.isnan(layer_statistics(optimizer)["kernel"].clipped)
    assert layer_statistics(optimizer)["bias"].root_v == found["bias"].root_v


def test_there_are_no_statistics_before_the_first_step():
    optimizer = NovoGrad(0.01)
    assert layer_statistics(optimizer) == {}
    optimizer.build([keras.Variable([1.0], name="w")])
    assert layer_statistics(optimizer) == {}


def test_a_callback_can_read_them_during_training():
    seen = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(layer_statistics(self.model.optimizer))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    model.compile(NovoGrad(0.01), loss="mse")
    model.fit(np.ones((8, 3)), np.zeros((8, 2)), batch_size=4, verbose=0, callbacks=[Log()])
    assert len(seen) == 2
    assert {path.rpartition("/")[2] for path in seen[-1]} == {"kernel", "bias"}


def test_what_is_not_supported_is_refused():
    with pytest.raises(TypeError, match=r"optimizer must be a novograd.keras.NovoGrad, .* SGD$"):
        layer_statistics(keras.optimizers.SGD())
    optimizer, *_ = trained()
    with pytest.raises(ValueError, match="gradients must have one for each of 2 variables, got 1"):
        layer_statistics(optimizer, [None])
