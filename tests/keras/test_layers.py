"""Layers in Keras, on every backend."""

import json

import keras
import numpy as np
import pytest

from novograd.keras import NovoGrad
from novograd.layers import Rows, Split, Stacked
from tests.helpers.parameters import crossed

OPTIONS = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.5, "weight_decay": 0.1}
STEPS = 30


def numpy(x):
    return np.array(keras.ops.convert_to_numpy(x))


def drawn(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def train(values, gradients, **options):
    """Trains one variable. Returns it, its momentum buffer and its second moment."""
    w = keras.Variable(values, name="kernel")
    optimizer = NovoGrad(**OPTIONS | options)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [w])
    return [numpy(x) for x in (w, *optimizer.variables[2:])]


@pytest.mark.parametrize(
    ("shape", "layers", "cut"),
    [
        ((4, 6, 3), Stacked(), lambda x: list(x)),
        ((3, 5, 4), Stacked(1), lambda x: [x[:, i] for i in range(5)]),
        ((12, 5), Split((3, 4, 5)), lambda x: np.split(x, [3, 7])),
        ((5, 48), Split((16, 32), axis=-1), lambda x: np.split(x, [16], 1)),
        ((5, 3), Split((5,)), lambda x: [x]),
    ],
    ids=["experts", "inner axis", "fused", "fused along the last axis", "one part"],
)
def test_layers_of_a_variable_equal_separate_variables(shape, layers, cut):
    values, gradients = drawn(0, shape), [drawn(1 + i, shape) for i in range(STEPS)]
    w, m, v = train(values, gradients, layers=layers)
    columns = zip(*map(cut, gradients), strict=True)
    apart = [train(*part) for part in zip(cut(values), columns, strict=True)]
    for i, whole in enumerate((w, m)):
        for piece, expected in zip(cut(whole), apart, strict=True):
            np.testing.assert_allclose(piece, expected[i], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(v.ravel(), [x for *_, x in apart], rtol=1e-5)


@pytest.mark.parametrize("scale", ["norm", "rms"])
def test_rows_are_the_output_units_of_a_kernel(scale):
    gradient = drawn(1, (5, 6))
    w, _, v = train(np.zeros((5, 6), "float32"), [gradient], layers=Rows(scale=scale))
    np.testing.assert_allclose(v, np.sum(gradient**2, 0, keepdims=True), rtol=1e-5)
    step = -w / OPTIONS["learning_rate"]
    expected = 6**-0.5 if scale == "norm" else 5**0.5
    np.testing.assert_allclose(np.linalg.norm(step, axis=0), np.full(6, expected), rtol=1e-5)


def test_rows_of_embeddings_are_words_and_rows_of_biases_are_elements():
    model = keras.Sequential([keras.layers.Embedding(7, 3), keras.layers.Dense(4)])
    model.build((None, 2))
    optimizer = NovoGrad(layers=Rows())
    optimizer.build(model.trainable_variables)
    assert [tuple(x.shape) for x in optimizer.variables[3::2]] == [(7, 1), (1, 4), (4,)]


def test_each_output_of_a_depthwise_convolution_is_a_row():
    model = keras.Sequential([keras.layers.SeparableConv2D(7, 3, depth_multiplier=2)])
    model.build((None, 8, 8, 4))
    optimizer = NovoGrad(layers=Rows())
    optimizer.build(model.trainable_variables)
    assert [tuple(x.shape) for x in optimizer.variables[3::2]] == [
        (1, 1, 4, 2), (1, 1, 1, 7), (7,),
    ]  # fmt: skip


def rows_of_kernels(variable):
    return Rows() if variable.name == "kernel" else None


registered = keras.saving.register_keras_serializable(package="tests")(rows_of_kernels)


@pytest.mark.parametrize(
    "layers", [None, Rows(scale="rms"), Stacked((0, 1)), Split((2, 1)), registered]
)
def test_the_configuration_keeps_layers(layers):
    config = NovoGrad(layers=layers).get_config()
    assert json.loads(json.dumps(config)) == config
    assert NovoGrad.from_config(config).layers == layers


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (Rows(), (1, 2)),
        (registered, (1, 2)),
        (Stacked((0, -1)), (3, 2)),
        (Split((1, 1), axis=-1), (1, 2)),
    ],
)
def test_a_saved_model_keeps_layers(tmp_path, layers, shape):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(NovoGrad(layers=layers), loss="mse")
    x, y = drawn(0, (8, 3)), drawn(1, (8, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    twin = keras.saving.load_model(tmp_path / "model.keras")
    assert twin.optimizer.layers == layers
    assert tuple(twin.optimizer.variables[3].shape) == shape
    for one in (model, twin):
        one.fit(x, y, verbose=0, shuffle=False)
    for a, b in zip(model.variables, twin.variables, strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5)


SMALL = {
    f"{shape}, {layers}": (shape, layers, v_shape)
    for shape, layers, v_shape in [
        ((), None, ()),
        ((), Rows(), ()),
        ((), Rows(scale="rms"), ()),
        ((1,), Rows(), (1,)),
        ((1,), Stacked(), (1,)),
        ((3,), Rows(), (3,)),
        ((3,), Split((1, 2)), (2,)),
        ((0,), None, ()),
        ((0,), Rows(), (0,)),
        ((0,), Split((0, 0)), (2,)),
        ((0, 3), Rows(), (1, 3)),
        ((0, 3), Rows(scale="rms"), (1, 3)),
        ((0, 3), Stacked(), (0, 1)),
        ((3, 0), Stacked(), (3, 1)),
        ((3, 0), Split((1, 2)), (2, 1)),
        ((1, 1), Rows(), (1, 1)),
        ((2, 3), Rows(), (1, 3)),
        ((2, 0, 3), Stacked((0, -1)), (2, 1, 3)),
    ]
}


@crossed("dtype", {x: x for x in ("float32", "bfloat16", "float16", "float64")}, "small", SMALL)
def test_scalars_and_empty_weights_are_trained_and_saved(tmp_path, small, dtype):
    """The second weight of the model must be trained and saved as well."""
    shape, layers, v_shape = small

    def new():
        model = Holder(shape, dtype)
        model.compile(NovoGrad(**OPTIONS, layers=lambda w: layers if w.name == "first" else None))
        model.optimizer.build(model.trainable_variables)
        return model

    def step(model, seed):
        found = [drawn(seed, w.shape) for w in model.trainable_variables]
        model.optimizer.apply([keras.ops.convert_to_tensor(g, dtype) for g in found])
        return [numpy(x) for x in model.variables + model.optimizer.variables]

    model, twin = new(), new()
    assert tuple(model.optimizer.variables[3].shape) == v_shape
    before = numpy(model.trainable_variables[0])
    step(model, 0)
    after = numpy(model.trainable_variables[0])
    assert np.all(np.isfinite(after.astype("float32")))
    assert not after.size or np.any(after != before)
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    for x, y in zip(step(model, 1), step(twin, 1), strict=True):
        np.testing.assert_array_equal(x, y)


class Holder(keras.Model):
    """A model that has two weights and computes nothing."""

    def __init__(self, shape, dtype):
        super().__init__()
        for name, size in (("first", shape), ("second", (2,))):
            self.add_weight(name=name, shape=size, dtype=dtype, initializer="ones")
        self.built = True


@pytest.mark.parametrize("scale", ["norm", "rms"])
def test_a_scalar_is_one_row(scale):
    values, gradients = np.float32(1), [drawn(i, ()) for i in range(STEPS)]
    whole = train(values, gradients)
    for x, y in zip(train(values, gradients, layers=Rows(scale=scale)), whole, strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_configuration_with_an_unregistered_function_is_refused():
    def unknown(variable):
        return None

    config = NovoGrad(layers=unknown).get_config()
    with pytest.raises(TypeError, match="Could not locate function 'unknown'"):
        NovoGrad.from_config(config)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (
            "rows",
            TypeError,
            "layers must be Stacked, Split, Rows, Whole, None or a function, got 'rows'",
        ),
        (lambda w: 3, TypeError, "layers must return Stacked, Split, Rows, Whole or None, got 3"),
        (Stacked(2), ValueError, r"Stacked\(axes=2\) does not fit a weight of shape \(4, 3\)"),
        (Split((3, 2)), ValueError, r"Split\(.*\) does not fit a weight of shape \(4, 3\)"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        NovoGrad(layers=layers).build([keras.Variable(drawn(0, (4, 3)))])
