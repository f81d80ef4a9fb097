"""The class gives the same results as the class of TensorFlow Addons, which runs on Keras 2."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest

from novograd import variants
from novograd.keras import NovoGrad
from tests.helpers import published
from tests.helpers.published import Draw, Stored

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow Addons runs on TensorFlow only"
)


@cache
def addons() -> Any:
    """Returns the class of TensorFlow Addons, with Keras 2 (``tf_keras``) and no type checks."""
    import tensorflow as tf
    import tf_keras

    folder = published.wheel("tensorflow_addons") / "tensorflow_addons" / "optimizers"
    names = {
        "tensorflow_addons.optimizers": folder,
        "tensorflow_addons.utils.types": folder,
        "typeguard": folder,
    }
    with published.packages(**names), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "keras", tf_keras)
        stand_ins: dict[str, Any] = sys.modules
        stand_ins[
            "tensorflow_addons.optimizers"
        ].KerasLegacyOptimizer = tf_keras.optimizers.legacy.Optimizer
        stand_ins["tensorflow_addons.utils.types"].FloatTensorLike = Any
        stand_ins["typeguard"].typechecked = lambda function: function
        return importlib.import_module("tensorflow_addons.optimizers.novograd").NovoGrad


def arguments(run: Draw) -> dict[str, Any]:
    return {
        "learning_rate": run.rates[0],
        "beta_1": run.beta1,
        "beta_2": run.beta2,
        "epsilon": run.epsilon,
        "weight_decay": run.weight_decay,
        "grad_averaging": run.grad_averaging,
    }


def of_addons(run: Draw, dtype: str) -> list[Stored]:
    import tensorflow as tf

    weights = [tf.Variable(w, dtype=dtype) for w in run.weights]
    optimizer = addons()(amsgrad=run.amsgrad, **arguments(run))
    found = []
    for rate, gradients in zip(run.rates, run.gradients, strict=True):
        optimizer.learning_rate = rate
        pairs = zip((tf.constant(g, dtype) for g in gradients), weights, strict=True)
        optimizer.apply_gradients(pairs)
        ms, vs = ([optimizer.get_slot(w, name) for w in weights] for name in "mv")
        w, m, v = (_arrays(xs) for xs in (weights, ms, vs))
        found.append(Stored(w, [-x for x in m], v))  # Addons stores -m
    return found


def of_ours(run: Draw, dtype: str) -> Iterator[Stored]:
    weights = [keras.Variable(w, dtype=dtype) for w in run.weights]
    variant = replace(variants.get("tfa"), amsgrad=run.amsgrad)
    optimizer = NovoGrad(variant=variant, **arguments(run))
    for rate, gradients in zip(run.rates, run.gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype) for g in gradients], weights)
        stored = (
            [x for x in optimizer.variables if x.name.endswith(name)] for name in ("momentum", "_v")
        )
        yield Stored(*(_arrays(xs) for xs in (weights, *stored)))


def _arrays(variables: Any) -> list[np.ndarray]:
    return [np.array(x.numpy(), np.float64) for x in variables]


NAMES = "tensorflow-addons 0.23.0", "tfa"


def test_results_equal_addons_in_float64(record_property):
    """The NumPy version must agree as well. It does not have amsgrad."""
    ours, words = [], []
    for run in map(published.draw, published.DRAWS):
        theirs = of_addons(run, "float64")
        ours.append(published.differences(run.weights, of_ours(run, "float64"), theirs))
        if not run.amsgrad:
            words.append(published.differences(run.weights, published.words("tfa", run), theirs))
    for found, by in ((ours, "keras"), (words, "words")):
        published.check(published.worst(found), "float64", record_property, *NAMES, by, "float64")


def test_results_equal_addons_in_float32(record_property):
    run = published.draw(published.DRAWS[-1])  # with decay, averaging and amsgrad
    found = published.differences(run.weights, of_ours(run, "float32"), of_addons(run, "float32"))
    published.check(found, "float32", record_property, *NAMES, "keras", "float32")


def test_the_variant_has_the_defaults_of_addons():
    theirs, ours = addons()().get_config(), NovoGrad(variant="tfa").get_config()
    options = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay", "grad_averaging")
    assert [ours[x] for x in options] == pytest.approx([theirs[x] for x in options], rel=1e-7)
