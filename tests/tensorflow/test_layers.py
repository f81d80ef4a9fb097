"""Layers in TensorFlow: the results equal those of layers in separate variables."""

import numpy as np
import pytest
import tensorflow as tf

from novograd import reference
from novograd.layers import Rows, Split, Stacked
from novograd.tensorflow import NovoGrad
from tests.helpers.oracle import trained
from tests.helpers.parameters import crossed

tf1 = tf.compat.v1

OPTIONS = {"learning_rate": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.5}
STEPS = 30


def new(**changes):
    return NovoGrad(**OPTIONS | changes)


def random(shape, step=0):
    """Returns random numbers whose size differs for each index of each axis."""
    sizes = 1 + np.indices(shape).sum(axis=0)
    return (sizes * np.random.default_rng(step).standard_normal(shape)).astype(np.float32)


def state(optimizer, w):
    return [x.numpy() for x in (w, *(optimizer.get_slot(w, n) for n in ("momentum", "v")))]


def train(shape, steps=STEPS, name="w", **options):
    """Returns weights, momentum buffer and v after some steps."""
    w, optimizer = tf.Variable(random(shape), name=name), new(**options)
    for step in range(steps):
        optimizer.apply_gradients([(tf.constant(random(shape, step + 1)), w)])
    return state(optimizer, w)


def train_apart(shape, cut):
    """Returns the same for pieces of the weights that are separate variables."""
    pieces = [tf.Variable(piece) for piece in cut(random(shape))]
    optimizer = new()
    for step in range(STEPS):
        gradients = map(tf.constant, cut(random(shape, step + 1)))
        optimizer.apply_gradients(zip(gradients, pieces, strict=True))
    return [list(x) for x in zip(*(state(optimizer, w) for w in pieces), strict=True)]


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "layers", "cut"),
    [
        ((8, 6, 4), Stacked(), list),  # experts: (E, in, out)
        ((3, 5, 40), Stacked(1), lambda x: list(np.moveaxis(x, 1, 0))),
        ((30, 7), Split((10, 12, 8)), lambda x: np.split(x, [10, 22])),
        ((5, 48), Split((16, 32), axis=-1), lambda x: np.split(x, [16], 1)),
    ],
    ids=["experts", "inner axis", "fused", "fused along the last axis"],
)
def test_layers_of_a_variable_equal_separate_variables(shape, layers, cut):
    w, m, v = train(shape, layers=layers)
    weights, moments, norms = train_apart(shape, cut)
    for whole, pieces in ((w, weights), (m, moments)):
        for piece, expected in zip(cut(whole), pieces, strict=True):
            close(piece, expected)
    np.testing.assert_allclose(v.ravel(), norms, rtol=2e-5)


def oracle_rows(shape, axis, scale, steps=STEPS):
    """Trains each row on its own with the oracle."""
    rows = []
    for i in range(shape[axis]):
        gradients = [np.take(random(shape, step + 1), i, axis) for step in range(steps)]
        w, m, v = trained(np.take(random(shape), i, axis), gradients, **OPTIONS, scale=scale)
        rows.append((w, m, v))
    w, m, v = zip(*rows, strict=True)
    return np.stack(w, axis), np.stack(m, axis), np.array(v)


@pytest.mark.parametrize("scale", ["norm", "rms"])
@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("dense/kernel", (4, 6), 1),
        ("conv/kernel", (3, 3, 2, 5), 3),
        ("embedding/embeddings", (6, 3), 0),
        ("embedding", (6, 3), 0),
        ("dense/bias", (5,), 0),
    ],
)
def test_rows_agree_with_the_oracle(name, shape, axis, scale):
    size = shape[axis]
    factor = {"norm": size**-0.5, "rms": np.sqrt(np.prod(shape) / size)}[scale]
    w, m, v = train(shape, name=name, layers=Rows(scale=scale))
    weights, moment, norms = oracle_rows(shape, axis, factor)
    close(w, weights)
    close(m, moment)
    np.testing.assert_allclose(v.ravel(), norms, rtol=2e-5)
    assert v.shape == tuple(n if i == axis else 1 for i, n in enumerate(shape))


def test_a_scalar_is_one_row():
    assert train((), steps=2, layers=Rows())[2].shape == ()


def test_a_function_may_choose_the_layers_of_each_variable():
    variables = [tf.Variable(random((4, 6)), name=name) for name in ("qkv", "kernel")]
    optimizer = new(layers=lambda w: Split((1, 3)) if w.name.startswith("qkv") else None)
    optimizer.apply_gradients([(tf.ones_like(w), w) for w in variables])
    assert [optimizer.get_slot(w, "v").numpy().tolist() for w in variables] == [[[6], [18]], 24]


def test_zero_and_huge_gradients_affect_only_their_layer():
    """A zero gradient does not start the average, and a squared norm beyond float32 is ignored."""
    w = tf.Variable(tf.ones((3, 2)))
    optimizer = NovoGrad(0.5, layers=Stacked())
    for gradient in ([[3, 4], [0, 0], [3, 4]], [[0, 0], [3, 4], [1e25, 1]]):
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), w)])
    close(optimizer.get_slot(w, "v").numpy().ravel(), [24.5, 25, 25])
    close(w.numpy()[1], [0.7, 0.6])
    assert np.isfinite(w.numpy()).all()


# -- sparse gradients ----------------------------------------------------------------------------

SLICES = [([4, 1, 4, 1], 1.0), ([0, 4], 2.0), ([1, 1, 1, 5], 0.5)]
LAYERS = {
    "rows": Rows(),
    "rows, rms": Rows(scale="rms"),
    "stacked": Stacked(),
    "columns": Stacked(1),
    "elements": Stacked((0, 1)),
    "split columns": Split((1, 0, 2), axis=1),
}


def slices(step):
    indices, scale = SLICES[step]
    values = scale * np.random.default_rng(step).standard_normal((len(indices), 3))
    return np.array(indices), values.astype(np.float32)


def sparse_in_session(layers, use_resource):
    with tf.Graph().as_default(), tf1.Session() as session:
        w = tf1.get_variable("embedding", initializer=random((6, 3)), use_resource=use_resource)
        indices, values = tf1.placeholder(tf.int64, [None]), tf1.placeholder(tf.float32, [None, 3])
        optimizer = new(layers=layers)
        step = optimizer.apply_gradients([(tf.IndexedSlices(values, indices, w.shape), w)])
        session.run(tf1.global_variables_initializer())
        for i in range(3):
            session.run(step, dict(zip((indices, values), slices(i), strict=True)))
        return session.run([w, optimizer.get_slot(w, "momentum"), optimizer.get_slot(w, "v")])


def sparse_in_tensorflow_2(layers, wrap):
    w, optimizer = tf.Variable(random((6, 3)), name="embedding"), new(layers=layers)

    def apply(indices, values):
        optimizer.apply_gradients([(tf.IndexedSlices(values, indices), w)])

    apply = wrap(apply)
    for i in range(3):
        apply(*map(tf.constant, slices(i)))
    return state(optimizer, w)


MODES = {
    "reference": lambda layers: sparse_in_session(layers, False),
    "resource": lambda layers: sparse_in_session(layers, True),
    "eager": lambda layers: sparse_in_tensorflow_2(layers, lambda f: f),
    "function": lambda layers: sparse_in_tensorflow_2(layers, tf.function),
    "compiled": lambda layers: sparse_in_tensorflow_2(
        layers, lambda f: tf.function(f, jit_compile=True)
    ),
}


def apart(layers):
    """Returns the place of each layer in the (6, 3) variable, and the scale of its step."""
    every = slice(None)
    rows = [((slice(i, i + 1), every), 1.0) for i in range(6)]
    return {
        "rows": [(where, 6**-0.5) for where, _ in rows],
        "rows, rms": [(where, 3**0.5) for where, _ in rows],
        "stacked": rows,
        "columns": [((every, slice(i, i + 1)), 1.0) for i in range(3)],
        "elements": [
            ((slice(i, i + 1), slice(j, j + 1)), 1.0) for i in range(6) for j in range(3)
        ],
        "split columns": [
            ((every, slice(*ends)), 1.0) for ends in ((0, 1), (1, 1), (1, 3))
        ],
    }[layers]  # fmt: skip


def sparse_oracle(layers):
    w, m = random((6, 3)).astype(np.float64), np.zeros((6, 3))
    places = apart(layers)
    norms = np.zeros(len(places))
    for step in range(3):
        indices, values = slices(step)
        summed, touched = np.zeros((6, 3)), np.zeros((6, 3), bool)
        np.add.at(summed, indices, values.astype(np.float64))
        touched[indices] = True
        for i, (where, scale) in enumerate(places):
            here = touched[where]
            if not here.any() and where[0] != slice(None):
                continue  # the gradient does not touch this row
            new_w, new_m, norms[i] = reference.step(
                w[where], m[where], norms[i], summed[where], **OPTIONS, epsilon=1e-8,
                grad_averaging=False, nesterov=False, scale=scale,
            )  # fmt: skip
            w[where] = np.where(here, new_w, w[where])
            m[where] = np.where(here, new_m, m[where])
    return w, m, norms


@crossed("mode", {name: name for name in MODES}, "layers", {name: name for name in LAYERS})
def test_sparse_gradients_agree_with_the_oracle(layers, mode):
    w, m, v = MODES[mode](LAYERS[layers])
    weights, moment, norms = sparse_oracle(layers)
    close(w, weights)
    close(m, moment)
    np.testing.assert_allclose(v.ravel(), norms, rtol=2e-5)


@pytest.mark.parametrize("indices", [[0], [], [0, 0]])
@pytest.mark.parametrize("layers", [Stacked(), Stacked(1), Split((1, 2), axis=1)])
def test_a_sparse_gradient_of_the_only_row_equals_a_dense_one(layers, indices):
    w, twin = (tf.Variable(random((1, 3))) for _ in range(2))
    sparse, dense = new(layers=layers), new(layers=layers)
    values = tf.ones((len(indices), 3))
    sparse.apply_gradients([(tf.IndexedSlices(values, tf.constant(indices, tf.int32)), w)])
    if not indices:
        np.testing.assert_array_equal(w.numpy(), twin.numpy())
        return
    dense.apply_gradients([(tf.fill((1, 3), float(len(indices))), twin)])
    for x, y in zip(state(sparse, w), state(dense, twin), strict=True):
        close(x, y)


def test_a_sparse_gradient_is_refused_for_a_variable_split_along_its_rows():
    other, w = tf.Variable([1.0, 2.0]), tf.Variable(random((6, 3)), name="fused")
    optimizer = new(layers=lambda w: Split((2, 4)) if w.name == "fused:0" else None)
    gradient = tf.IndexedSlices(tf.ones((1, 3)), [2])
    message = "^layers of fused:0 must not be split along its first axis, got Split"
    with pytest.raises(ValueError, match=message):
        optimizer.apply_gradients([(tf.ones(2), other), (gradient, w)])
    np.testing.assert_array_equal(other.numpy(), [1, 2])
    assert not optimizer.variables()


# -- errors and checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["rows", 0, Rows, (Rows(),)])
def test_layers_of_the_wrong_type_are_refused(value):
    with pytest.raises(
        TypeError, match=r"^layers must be Stacked, Split, Rows, Whole, None or a fun"
    ):
        NovoGrad(layers=value)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (Stacked(2), ValueError, r"^Stacked\(axes=2\) does not fit a weight of shape \(4, 3\)"),
        (Split((2, 3)), ValueError, r"^Split\(.*\) does not fit a weight of shape \(4, 3\)"),
        (
            lambda w: "rows",
            TypeError,
            r"^layers must return Stacked, Split, Rows, Whole or None, got 'ro",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, error, message):
    other, w = tf.Variable(1.0), tf.Variable(random((4, 3)))
    optimizer = new(layers=lambda x: None if x is other else layers)
    if callable(layers):
        optimizer = new(layers=lambda x: None if x is other else layers(x))
    with pytest.raises(error, match=message):
        optimizer.apply_gradients([(tf.constant(1.0), other), (tf.ones_like(w), w)])
    assert other.numpy() == 1
    assert not optimizer.variables()


def layered():
    w = tf.Variable(random((4, 3)))
    optimizer = new(layers=Rows())
    return w, optimizer, tf.train.Checkpoint(w=w, optimizer=optimizer)


def test_a_checkpoint_can_be_restored_before_the_first_step(tmp_path):
    def run(steps):
        for step in steps:
            optimizer.apply_gradients([(tf.constant(random((4, 3), step)), w)])
        return state(optimizer, w)

    w, optimizer, checkpoint = layered()
    run(range(5))
    path = checkpoint.save(str(tmp_path / "checkpoint"))
    expected = run(range(5, 10))
    w, optimizer, checkpoint = layered()
    checkpoint.restore(path).assert_existing_objects_matched()
    for x, y in zip(run(range(5, 10)), expected, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])
def test_partitions_are_saved_with_their_layers(tmp_path, use_resource):
    """Each partition has its own layers. Rows depend on the name of the whole variable."""
    with tf.Graph().as_default(), tf1.Session() as session:
        w = tf1.get_variable(
            "embedding",
            initializer=tf.constant(random((5, 3))),
            partitioner=tf1.fixed_size_partitioner(2),
            use_resource=use_resource,
        )
        optimizer = new(layers=Rows())
        step = optimizer.minimize(tf.reduce_sum(tf.convert_to_tensor(w) ** 2) / 2)
        slots = [optimizer.get_slot(part, "v") for part in w]
        saver = tf1.train.Saver()
        session.run(tf1.global_variables_initializer())
        session.run(step)
        expected = session.run(slots)
        close(np.concatenate(expected)[:, 0], np.sum(random((5, 3)) ** 2, axis=1))
        path = saver.save(session, str(tmp_path / "model"))
        session.run(tf1.global_variables_initializer())
        saver.restore(session, path)
        for x, y in zip(session.run(slots), expected, strict=True):
            assert x.tobytes() == y.tobytes()


# -- several devices and processes ---------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_two_replicas_equal_one_device(sparse):
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    shape = (6, 3)
    with strategy.scope():
        w = tf.Variable(random(shape), name="embedding")
        optimizer = new(layers=Rows())

    @tf.function
    def step(gradient):
        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            rows = tf.range(6)[replica::2]  # each replica has every second row
            part = tf.IndexedSlices(tf.gather(gradient, rows), rows, shape)
            optimizer.apply_gradients([(part if sparse else tf.convert_to_tensor(part), w)])

        strategy.run(replica_step)

    for i in range(5):
        step(tf.constant(random(shape, i + 1)))
    actual = state(optimizer, w)
    for x, y in zip(actual, train(shape, 5, "embedding", layers=Rows()), strict=True):
        close(x, y)
    first, second = strategy.experimental_local_results(optimizer.get_slot(w, "v"))
    np.testing.assert_array_equal(first.numpy(), second.numpy())
