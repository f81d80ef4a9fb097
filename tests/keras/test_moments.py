"""Momentum buffers in 8 bits and in bfloat16: their variables, files and compiled steps."""

import keras
import numpy as np
import pytest

from novograd import reference
from novograd.keras import NovoGrad, layer_statistics, moments
from novograd.layers import Rows, Split

BACKEND = keras.backend.backend()
SHAPES = {"a": (32, 300), "b": (8, 64, 3, 3), "c": (300,)}
read = keras.ops.convert_to_numpy


def variables():
    random = np.random.default_rng(0)
    return [
        keras.Variable(random.standard_normal(shape), dtype="float32", name=name)
        for name, shape in SHAPES.items()
    ]


def gradients(seed):
    random = np.random.default_rng(seed)
    return [
        keras.ops.convert_to_tensor(random.standard_normal(shape), "float32")
        for shape in SHAPES.values()
    ]


def trained(steps=3, **options):
    weights, optimizer = variables(), NovoGrad(0.1, weight_decay=0.1, **options)
    for step in range(steps):
        optimizer.apply(gradients(step), weights)
    return weights, optimizer


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["a_momentum", "a_v", "b_momentum", "b_v", "c_momentum", "c_v"]),
        (
            {"moment_dtype": "bfloat16"},
            ["a_momentum", "a_v", "b_momentum", "b_v", "c_momentum", "c_v"],
        ),
        (
            {"moment_dtype": "int8", "variant": "nvidia-amsgrad"},
            [
                *("a_momentum", "a_v", "a_v_max", "a_momentum_scale"),
                *("b_momentum", "b_v", "b_v_max", "b_momentum_scale"),
                *("c_momentum", "c_v", "c_v_max"),
            ],
        ),
    ],
    ids=["float32", "bfloat16", "int8"],
)
def test_the_variables_have_the_documented_order_shapes_and_dtypes(options, expected):
    optimizer = NovoGrad(**options)
    optimizer.build(variables())
    state = {x.name: x for x in optimizer.variables[2:]}
    assert list(state) == expected
    quantised = options.get("moment_dtype", "float32")
    dtypes = [state[f"{name}_momentum"].dtype for name in SHAPES]
    assert dtypes == [quantised, quantised, "float32"]
    if quantised == "int8":
        scales = [state[f"{name}_momentum_scale"] for name in "ab"]
        assert [(tuple(x.shape), x.dtype) for x in scales] == [
            ((32, 3), "float32"),
            ((8, 5), "float32"),
        ]


@pytest.mark.parametrize("value", ["float32", "int4", "uint8", 8])
def test_another_dtype_is_refused(value):
    message = rf"^moment_dtype must be 'int8', 'bfloat16' or None, got {value!r}$"
    with pytest.raises(ValueError, match=message):
        NovoGrad(moment_dtype=value)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_the_configuration_and_the_file_restore_the_state(dtype, tmp_path):
    def new_model():
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128)])
        model.compile(NovoGrad(0.1, moment_dtype=dtype), loss="mse")
        return model

    random = np.random.default_rng(0)
    x, y = random.standard_normal((8, 64)), random.standard_normal((8, 128))
    model = new_model()
    model.fit(x, y, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.moment_dtype == dtype
    for one in (model, loaded):
        one.fit(x, y, epochs=1, verbose=0, shuffle=False)
    for before, after in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(
            *(read(keras.ops.cast(v, "float32")) for v in (before, after))
        )


@pytest.mark.parametrize("layers", [None, Rows(), Split((5, 27)), Split((100, 200), axis=1)])
def test_weights_are_near_those_with_a_float32_buffer(layers):
    def chosen(variable):
        return layers if variable.name == "a" else None

    (int8, optimizer), (wide, _) = (
        trained(layers=chosen, moment_dtype=dtype) for dtype in ("int8", None)
    )
    for w, expected in zip(int8, wide, strict=True):
        np.testing.assert_allclose(read(w), read(expected), atol=0.01)
    assert not np.array_equal(read(int8[0]), read(wide[0]))
    assert np.isfinite(layer_statistics(optimizer)["a"].update_ratio)


def test_the_rounding_has_the_random_numbers_of_the_oracle():
    moment = np.random.default_rng(0).standard_normal((8, 64, 3, 3)).astype(np.float32)
    q, scales = (read(x) for x in moments.quantised(keras.ops.array(moment), (8, 5), 7))
    for block, positions in enumerate(reference.blocks(moment.shape)):
        values, scale = moment.ravel()[positions], scales.ravel()[block]
        np.testing.assert_allclose(scale, np.abs(values).max() / 127, rtol=2e-7)
        exact = values / scale + reference.uniform(7, positions, reference.MOMENT_SEED)
        # float32 has a relative error of 2^-24, and the numbers are up to 128.
        least, most = (np.floor(exact + x).clip(-127, 127) for x in (-3e-5, 3e-5))
        stored = q.ravel()[positions]
        assert np.all((stored == least) | (stored == most))
