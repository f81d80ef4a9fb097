"""The order of the optimizer's variables, which files rely on, and training that continues."""

import copy
import importlib.util
import json
import pickle

import keras
import numpy as np
import pytest

from novograd.keras import NovoGrad
from novograd.layers import Rows
from tests.helpers.parameters import crossed
from tests.helpers.programs import finish, start
from tests.keras import resumable_training as training

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]


def test_the_variables_have_the_documented_order():
    weights = [keras.Variable(np.ones(3), name="a"), keras.Variable(np.ones((2, 1)), name="b")]
    every_kind = NovoGrad(use_ema=True, gradient_accumulation_steps=2)
    schedule = NovoGrad(keras.optimizers.schedules.CosineDecay(0.1, 10))
    for optimizer, first in (
        (NovoGrad(), ["iteration", "learning_rate"]),
        (schedule, ["iteration"]),
        (
            every_kind,
            [
                *("iteration", "learning_rate", "a_average", "b_average"),
                *("a_gradient_accumulator", "b_gradient_accumulator"),
            ],
        ),
    ):
        optimizer.build(weights)
        names = [x.name for x in optimizer.variables]
        assert names == [*first, "a_momentum", "a_v", "b_momentum", "b_v"]
        optimizer.build(weights)  # Keras calls it twice
        assert len(optimizer.variables) == len(names)
    assert [tuple(x.shape) for x in every_kind.variables[6:]] == [(3,), (), (2, 1), ()]


@crossed(
    "copied",
    {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "deepcopy": copy.deepcopy},
    "scaled",
    {"scaled": True, "plain": False},
)
def test_a_copy_continues_like_the_original(copied, scaled):
    model = training.new_model()
    if scaled:
        inner = NovoGrad(0.1, layers=Rows(), variant="nvidia-amsgrad")
        model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0), loss="mse")
    training.train(model, 0, training.SAVED)
    twin = copied(model)
    for one in (model, twin):
        training.train(one, training.SAVED, training.STEPS)
    assert training.state(twin) == training.state(model)


@pytest.fixture
def uninterrupted():
    model = training.new_model()
    training.train(model, 0, training.STEPS)
    return training.state(model)


def test_a_saved_model_continues_bit_for_bit(tmp_path, uninterrupted):
    model = training.new_model()
    training.train(model, 0, training.SAVED)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is NovoGrad
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    training.train(loaded, training.SAVED, training.STEPS)
    assert training.state(loaded) == uninterrupted


def test_saved_weights_continue_bit_for_bit(tmp_path, uninterrupted):
    model = training.new_model()
    training.train(model, 0, training.SAVED)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = training.new_model()
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "model.weights.h5")
    training.train(loaded, training.SAVED, training.STEPS)
    assert training.state(loaded) == uninterrupted


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="one run starts every backend")
def test_a_file_of_one_backend_continues_on_the_others(tmp_path):
    files = [tmp_path / f"{backend}.keras" for backend in BACKENDS]
    programs = [
        start(training.__name__, file, *files, KERAS_BACKEND=backend)
        for backend, file in zip(BACKENDS, files, strict=True)
    ]
    runs = []
    for program in programs:
        saved = next(line for line in program.stdout if line.startswith("[["))
        runs += json.loads(saved)
    for program in programs:
        program.stdin.write("\n")
        runs += json.loads(finish(program).splitlines()[-1])
    assert len(runs) == len(files) + len(files) ** 2
    for run in runs[1:]:
        for x, y in zip(run, runs[0], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
