"""IndexedSlices: duplicates are summed before the norm, and untouched rows stay unchanged."""

import numpy as np
import pytest
import tensorflow as tf

from novograd import reference
from novograd.tensorflow import NovoGrad
from tests.helpers.oracle import trained
from tests.helpers.parameters import crossed, some

tf1 = tf.compat.v1

HYPER = {
    "learning_rate": 0.25,
    "beta1": 0.5,
    "beta2": 0.75,
    "epsilon": 1e-8,
    "weight_decay": 0.125,
    "grad_averaging": False,
}
START = np.random.default_rng(0).standard_normal((6, 3))
# Rows 4 and 1 occur twice in the first step. The next step leaves out row 1.
STEPS = [([4, 1, 4, 1], 1.0), ([0, 4], 2.0), ([1, 1, 1, 5], 0.5)]


def slices(step, dtype):
    indices, scale = STEPS[step]
    values = scale * np.random.default_rng(step + 1).standard_normal((len(indices), 3))
    return values.astype(dtype), np.array(indices)


def oracle(dtype, nesterov):
    w = START.astype(dtype).astype(np.float64)
    m, v = np.zeros_like(w), 0.0
    for step in range(len(STEPS)):
        values, indices = slices(step, dtype)
        rows = np.unique(indices)
        summed = np.stack([values[indices == row].astype(np.float64).sum(axis=0) for row in rows])
        w[rows], m[rows], v = reference.step(
            w[rows], m[rows], v, summed, **HYPER, nesterov=nesterov
        )
    return w, m, v


def run_session(dtype, nesterov, use_resource):
    with tf.Graph().as_default(), tf1.Session() as session:
        w = tf1.get_variable("w", initializer=START.astype(dtype), use_resource=use_resource)
        values, indices = tf1.placeholder(dtype, [None, 3]), tf1.placeholder(tf.int64, [None])
        optimizer = NovoGrad(**HYPER, use_nesterov=nesterov)
        train = optimizer.apply_gradients([(tf.IndexedSlices(values, indices, w.shape), w)])
        session.run(tf1.global_variables_initializer())
        for step in range(len(STEPS)):
            session.run(train, dict(zip((values, indices), slices(step, dtype), strict=True)))
        return session.run([w, optimizer.get_slot(w, "momentum"), optimizer.get_slot(w, "v")])


def run_tensorflow_2(dtype, nesterov, wrap):
    w = tf.Variable(START.astype(dtype))
    optimizer = NovoGrad(**HYPER, use_nesterov=nesterov)

    def apply(values, indices):
        optimizer.apply_gradients([(tf.IndexedSlices(values, indices), w)])

    apply = wrap(apply)
    for step in range(len(STEPS)):
        apply(*map(tf.constant, slices(step, dtype)))
    return [x.numpy() for x in (w, *(optimizer.get_slot(w, n) for n in ("momentum", "v")))]


MODES = {
    "reference": lambda dtype, nesterov: run_session(dtype, nesterov, False),
    "resource": lambda dtype, nesterov: run_session(dtype, nesterov, True),
    "eager": lambda dtype, nesterov: run_tensorflow_2(dtype, nesterov, lambda f: f),
    "function": lambda dtype, nesterov: run_tensorflow_2(dtype, nesterov, tf.function),
    "compiled": lambda dtype, nesterov: run_tensorflow_2(
        dtype, nesterov, lambda f: tf.function(f, jit_compile=True)
    ),
}
# float16: each of 3 steps rounds once, and TensorFlow sums duplicates in the gradient's dtype.
TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 4e-3}


@crossed("mode", {name: name for name in MODES}, "dtype", {name: name for name in TOLERANCE})
@pytest.mark.parametrize("nesterov", some([False, True], kept=[True]))
def test_sparse_steps_agree_with_the_oracle(mode, dtype, nesterov):
    for actual, expected in zip(MODES[mode](dtype, nesterov), oracle(dtype, nesterov), strict=True):
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_untouched_rows_keep_every_bit():
    w = tf.Variable(START)
    optimizer = NovoGrad(**HYPER)
    optimizer.apply_gradients([(tf.ones_like(w), w)])
    before = w.numpy(), optimizer.get_slot(w, "momentum").numpy()
    optimizer.apply_gradients([(tf.IndexedSlices(tf.ones((1, 3), tf.float64), [2]), w)])
    after = w.numpy(), optimizer.get_slot(w, "momentum").numpy()
    for old, new in zip(before, after, strict=True):
        assert (old != new).any(axis=1).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])
def test_dense_and_sparse_steps_can_alternate(use_resource):
    """A sparse gradient of all rows equals a dense one, so momentum has the same sign in both."""
    results = []
    for sparse_steps in ((), (0, 2), (1,), (0, 1, 2)):
        with tf.Graph().as_default(), tf1.Session() as session:
            w = tf1.get_variable("w", initializer=START, use_resource=use_resource)
            optimizer = NovoGrad(**HYPER)
            gradient = tf.constant(START[::-1].copy())
            trains = [
                optimizer.apply_gradients([(g, w)])
                for g in (gradient, tf.IndexedSlices(gradient, tf.range(6), w.shape))
            ]
            session.run(tf1.global_variables_initializer())
            for step in range(3):
                session.run(trains[step in sparse_steps])
            results.append(session.run([w, optimizer.get_slot(w, "momentum")]))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-14, atol=1e-14)


def test_the_gradient_of_an_embedding_is_summed_before_the_norm():
    table = tf.Variable(START)
    optimizer = NovoGrad(**HYPER)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [4, 1, 4]) ** 2) / 2
    gradient = tape.gradient(loss, table)
    assert isinstance(gradient, tf.IndexedSlices)
    optimizer.apply_gradients([(gradient, table)])
    # Row 4 occurs twice: its gradients are summed before they are squared.
    expected = np.sum(START[1] ** 2) + np.sum((2 * START[4]) ** 2)
    np.testing.assert_allclose(optimizer.get_slot(table, "v").numpy(), expected, rtol=1e-6)


def test_replicas_sum_their_sparse_gradients():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        w = tf.Variable(START)
        optimizer = NovoGrad(**HYPER)

    @tf.function
    def train():
        def step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.IndexedSlices(tf.ones((1, 3), tf.float64), tf.stack([replica]))
            optimizer.apply_gradients([(gradient, w)])

        strategy.run(step)

    train()
    # The sum over the replicas is two rows of ones.
    assert optimizer.get_slot(w, "v").numpy() == 6.0
    expected, _, _ = trained(START[:2], [np.ones((2, 3))], **HYPER)
    np.testing.assert_allclose(w.numpy()[:2], expected, rtol=1e-12)
    np.testing.assert_array_equal(w.numpy()[2:], START[2:])
