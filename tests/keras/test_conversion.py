"""``novograd.checkpoint`` reads and writes files of Keras."""

import h5py
import keras
import numpy as np
import pytest

from novograd.checkpoint import CheckpointError, read, write
from novograd.keras import NovoGrad
from novograd.layers import Rows
from tests.helpers import loading
from tests.keras import resumable_training as training


def new_model(optimizer):
    layers = [keras.layers.Dense(2, name="first"), keras.layers.BatchNormalization(name="second")]
    model = keras.Sequential([keras.Input((5,)), *layers], name="net")
    model.compile(optimizer, loss="mse")
    return model


def trained(variant="documented", **options):
    model = new_model(NovoGrad(0.1, 0.9, 0.5, 1e-7, variant=variant, layers=Rows(), **options))
    for x in training.INPUTS[:3]:
        model.train_on_batch(x, x[:, :2])
    return model


def state(optimizer):
    return [np.array(keras.ops.convert_to_numpy(x)) for x in optimizer.variables]


def assert_same_bits(actual, expected):
    assert len(actual) == len(expected)
    for x, y in zip(actual, expected, strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


NAMES = ["first/kernel", "first/bias", "second/gamma", "second/beta"]


@pytest.mark.parametrize("source", ["state.keras", "state.weights.h5"])
@pytest.mark.parametrize(
    ("variant", "options"), [("nvidia-amsgrad", {}), ("documented", {"weight_decay": 0.1})]
)
def test_an_optimizer_keeps_every_bit_after_reading_and_writing(tmp_path, variant, options, source):
    model = trained(variant, **options)
    model.save(tmp_path / source) if source.endswith("s") else model.save_weights(tmp_path / source)
    checkpoint = read(tmp_path / source, "keras", variant=variant)
    if source.endswith("keras"):
        assert list(checkpoint.entries) == NAMES
        known = checkpoint.groups[0].hyperparameters
        assert (known.beta1, known.beta2, known.epsilon) == (0.9, 0.5, 1e-7)
        assert known.weight_decay == options.get("weight_decay", 0)
    write(checkpoint, tmp_path / "target", "keras")
    again = new_model(NovoGrad(0.3, variant=variant, layers=Rows())).optimizer
    again.build(model.trainable_variables)
    with h5py.File(tmp_path / "target") as file:
        again.load_own_variables(file["optimizer/vars"])
    assert_same_bits(state(again), state(model.optimizer))
    through = read(tmp_path / "target", "keras")
    assert through.groups == checkpoint.groups
    assert through.variant.name == variant


def test_files_with_averages_and_schedules_are_read(tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    model = new_model(NovoGrad(schedule, use_ema=True))
    for x in training.INPUTS[:3]:
        model.train_on_batch(x, x[:, :2])
    model.save(tmp_path / "model.keras")
    checkpoint = read(tmp_path / "model.keras", "keras", weights=True)
    assert checkpoint.groups[0].hyperparameters.lr == pytest.approx(0.1 / 8)
    for (moment, v), entry, weights in zip(
        np.reshape(np.array(state(model.optimizer)[5:], object), (4, 2)),
        checkpoint.entries.values(),
        model.trainable_variables,
        strict=True,
    ):
        assert_same_bits([entry.moment, entry.v], [moment, v])
        assert_same_bits([entry.weights], [np.array(keras.ops.convert_to_numpy(weights))])
    model.save_weights(tmp_path / "model.weights.h5")
    # This file does not tell that it contains averages of the weights.
    with pytest.raises(CheckpointError, match=r"v of '0' has shape \(2,\)"):
        read(tmp_path / "model.weights.h5", "keras")


def test_files_with_other_content_are_refused(tmp_path):
    def wrong(name, message):
        with pytest.raises(CheckpointError, match=message) as error:
            read(tmp_path / name, "keras")
        assert str(tmp_path / name) in str(error.value)

    model = new_model("adam")
    model.train_on_batch(training.INPUTS[0], training.INPUTS[0][:, :2])
    model.save(tmp_path / "adam.keras")
    wrong("adam.keras", "its optimizer is not a trained NovoGrad: Adam")
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "none.keras")
    wrong("none.keras", "its optimizer is not a trained NovoGrad: NoneType")
    model.save_weights(tmp_path / "none.weights.h5")
    with h5py.File(tmp_path / "none.weights.h5", "a") as file:
        del file["optimizer"]
    wrong("none.weights.h5", "it was saved without an optimizer")
    model = trained()
    model.save_weights(tmp_path / "some.weights.h5")
    with h5py.File(tmp_path / "some.weights.h5", "a") as file:
        del file["optimizer/vars/3"]
    wrong("some.weights.h5", "'optimizer/vars' is incomplete")
    for name in ("whole.keras", "whole.weights.h5"):
        model.save(tmp_path / name) if name.endswith("s") else model.save_weights(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in (0, 10, len(whole) // 2, len(whole) - 50):
            (tmp_path / name).write_bytes(whole[:length])
            wrong(name, "it is damaged|cannot load")


def test_the_printed_lines_load_the_file_and_a_full_disk_destroys_nothing(tmp_path, monkeypatch):
    loading.check_target("keras", tmp_path, monkeypatch)


SAVES = """
@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

for name, layer in ("own", Twice()), ("lambda", keras.layers.Lambda(lambda x: 2 * x)):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2), layer])
    optimizer = NovoGrad(
        0.5, 0.75, variant="nvidia-amsgrad", weight_decay=0.25, use_ema=use_ema
    )
    model.compile(optimizer, loss="mse")
    model.train_on_batch(numpy.ones((4, 5)), numpy.ones((4, 2)))
    model.save(f"{folder}/{name}.keras")
    model.save_weights(f"{folder}/{name}.weights.h5")
"""


def save_with_unknown_layers(folder, use_ema):
    """Saves models with layers from a module that cannot be imported and that Keras forgets."""
    known = dict(keras.saving.get_custom_objects())
    scope = {"__name__": "gone", "keras": keras, "numpy": np, "NovoGrad": NovoGrad}
    exec(SAVES, scope | {"folder": folder, "use_ema": use_ema})
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(known)


@pytest.mark.parametrize("name", ["own", "lambda"])
def test_an_archive_with_layers_that_keras_does_not_know_is_read(tmp_path, name):
    save_with_unknown_layers(tmp_path, use_ema=False)
    with pytest.raises((TypeError, ValueError)):
        keras.saving.load_model(tmp_path / f"{name}.keras")
    known = read(tmp_path / f"{name}.keras", "keras")
    expected = read(tmp_path / f"{name}.weights.h5", "keras", variant="nvidia-amsgrad")
    assert known.variant == expected.variant
    for number, entry in expected.entries.items():
        for part in ("moment", "v", "v_max"):
            assert (getattr(known.entries[number], part) == getattr(entry, part)).all()
    options = known.groups[0].hyperparameters
    assert (options.lr, options.beta1, options.weight_decay) == (0.5, 0.75, 0.25)


def test_an_archive_with_unknown_layers_and_averages_is_refused(tmp_path):
    save_with_unknown_layers(tmp_path, use_ema=True)
    with pytest.raises(
        CheckpointError, match="its optimizer has use_ema, which adds variables to its own; Keras"
    ):
        read(tmp_path / "own.keras", "keras")
