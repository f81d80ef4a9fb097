"""Gradients in every form that Keras's own optimizers accept, and gradients of a wrong shape."""

import keras
import numpy as np
import pytest

from novograd.keras import NovoGrad
from novograd.layers import Rows, Split, Stacked

BACKEND = keras.backend.backend()
SHAPE, STEPS = (6, 3), 4
# One row occurs twice, and a step does not touch some rows.
INDICES = np.array([4, 1, 4])


def sparse(indices, rows):
    """Returns a sparse gradient of the backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.IndexedSlices(tf.constant(rows), tf.constant(indices), tf.constant(SHAPE))
    if BACKEND == "jax":
        from jax.experimental.sparse import BCOO

        return BCOO((rows, indices[:, None]), shape=SHAPE)
    import torch

    return torch.sparse_coo_tensor(indices[None], rows, SHAPE, check_invariants=True)


def dense(indices, rows):
    """Returns the same gradient as a dense tensor."""
    whole = np.zeros(SHAPE, rows.dtype)
    np.add.at(whole, indices, rows)
    return keras.ops.convert_to_tensor(whole)


def numpy(variables):
    return [np.array(keras.ops.convert_to_numpy(x)) for x in variables]


def gradients(form):
    """Yields the gradients of a table and a bias for each step."""
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = random.standard_normal((len(INDICES), SHAPE[1])).astype("float32")
        bias = random.standard_normal(2).astype("float32")
        yield [form(INDICES, rows), keras.ops.convert_to_tensor(bias)]


def variables():
    random = np.random.default_rng(1)
    table, bias = random.standard_normal(SHAPE), random.standard_normal(2)
    values = {"embeddings": table, "bias": bias}
    return [keras.Variable(x, dtype="float32", name=name) for name, x in values.items()]


def train(optimizer, form, apply=NovoGrad.apply):
    """Returns the weights and the optimizer's variables after some steps."""
    weights = variables()
    optimizer.build(weights)
    for found in gradients(form):
        apply(optimizer, found, weights)
    return numpy([*weights, *optimizer.variables])


def of_table(layers):
    return lambda variable: layers if variable.name == "embeddings" else None


CASES = {
    "defaults": {},
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2},
    "averages": {"use_ema": True, "ema_overwrite_frequency": 2},
    "loss scale": {"loss_scale_factor": 8.0},
    "amsgrad": {"variant": "nvidia-amsgrad"},
    "rows": {"layers": Rows()},
    "stacked": {"layers": of_table(Stacked())},
    "split": {"layers": of_table(Split((2, 4)))},
    "split along the last axis": {"layers": of_table(Split((1, 2), axis=-1))},
}
OPTIONS = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


@OPTIONS
def test_a_sparse_gradient_gives_the_same_step_as_the_dense_one(options):
    expected = train(NovoGrad(0.1, weight_decay=0.1, **options), dense)
    actual = train(NovoGrad(0.1, weight_decay=0.1, **options), sparse)
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="Keras refuses stateless_apply on TensorFlow")
@OPTIONS
def test_a_sparse_gradient_gives_the_same_stateless_step_as_the_dense_one(options):
    def step(state, found, weights):
        return optimizer.stateless_apply(state, found, weights)

    if BACKEND == "jax":
        import jax

        step = jax.jit(step)

    def apply(optimizer, found, weights):
        every = [*weights, *optimizer.variables]
        values = [keras.ops.convert_to_tensor(x) for x in every]
        after = step(values[len(weights) :], found, values[: len(weights)])
        for variable, value in zip(every, [*after[0], *after[1]], strict=True):
            variable.assign(value)

    expected = train(NovoGrad(0.1, **options), dense)
    optimizer = NovoGrad(0.1, **options)
    for x, y in zip(train(optimizer, sparse, apply), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_lists_arrays_and_variables_are_accepted_as_gradients():
    values = [1.0, 2.0, 3.0]
    results = []
    for gradient in (values, np.array(values), keras.Variable(values)):
        w = keras.Variable(np.ones(3))
        NovoGrad(0.1).apply([gradient], [w])
        results.append(numpy([w])[0])
    np.testing.assert_allclose(results, [1 - 0.1 * np.array(values) / 14**0.5] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "wrong"), [((3,), (4,)), ((3,), (1,)), ((3,), ()), ((), (1,)), ((3, 2), (2, 3))]
)
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_gradient_of_another_shape_is_refused_and_changes_nothing(shape, wrong, options):
    weights = [keras.Variable(np.ones(x), name=name) for x, name in (((2,), "a"), (shape, "b"))]
    optimizer = NovoGrad(0.1, **options)
    optimizer.build(weights)
    before = numpy([*weights, *optimizer.variables])
    found = [keras.ops.ones(2), keras.ops.ones(wrong)]
    for arguments in ((found,), (found, iter(weights))):
        with pytest.raises(
            ValueError, match=r"^the gradient of b must have its shape \(.*\), got "
        ):
            optimizer.apply(*arguments)
    for x, y in zip(numpy([*weights, *optimizer.variables]), before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("count", [1, 3])
def test_more_or_fewer_gradients_than_variables_are_refused_and_nothing_changes(count):
    variables = [keras.Variable(np.ones(2, "float32")) for _ in range(2)]
    optimizer = NovoGrad(0.1)
    with pytest.raises(ValueError, match=f"got {count} for 2 variables"):
        optimizer.apply([keras.ops.ones(2)] * count, variables)
    for variable in variables:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), 1)


def test_complex_variables_are_refused():
    variable = keras.Variable(np.ones(2, "complex64"), dtype="complex64", name="phase")
    with pytest.raises(ValueError, match=r"variable 'phase' has the dtype complex64"):
        NovoGrad(0.1).build([variable])
