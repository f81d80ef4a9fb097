"""Hyperparameters of every kind, and the places in a program where the class must work.

test_conformance.py compares the results of each mode. This file tests usual ways to use the class.
"""

import numpy as np
import pytest
import tensorflow as tf

from novograd import reference
from novograd.tensorflow import NovoGrad

tf1 = tf.compat.v1

START = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]], np.float32)
GRADIENTS = [np.float32(i + 1) * START[::-1] - np.float32(0.5) for i in range(4)]
PLAIN = {
    "learning_rate": 0.25,
    "beta1": 0.5,
    "beta2": 0.75,
    "epsilon": 1e-8,
    "weight_decay": 0.125,
    "grad_averaging": False,
    "nesterov": False,
}
# Hyperparameters of the second step. All are exact in float32.
LATER = {"learning_rate": 0.5, "beta1": 0.25, "beta2": 0.5, "weight_decay": 0.5}


def oracle(steps):
    """Returns the weights after steps, given as pairs (gradient, changed hyperparameters)."""
    w, m, v = START, np.zeros_like(START), 0.0
    for gradient, changes in steps:
        w, m, v = reference.step(w, m, v, gradient, **PLAIN | changes)
    return w


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


def new(**changes):
    arguments = PLAIN | changes
    return NovoGrad(use_nesterov=arguments.pop("nesterov"), **arguments)


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        yield graph


@pytest.fixture
def session(graph):
    with tf1.Session(graph=graph) as session:
        yield session


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("variable", False),
        ("callable", False),
        ("callable of variable", False),
        # There is no plain callable here: a function keeps the number from its tracing.
        ("variable", True),
        ("callable of variable", True),
    ],
)
def test_hyperparameters_may_change_in_tensorflow_2(name, kind, function):
    value = tf.Variable(PLAIN[name], dtype=tf.float32)
    arguments = {
        "variable": value,
        "callable": lambda: float(value.numpy()),
        "callable of variable": lambda: value.read_value(),
    }
    optimizer = new(**{name: arguments[kind]})
    w = tf.Variable(START)

    def step(gradient):
        optimizer.apply_gradients([(gradient, w)])

    if function:
        step = tf.function(step)
    step(tf.constant(GRADIENTS[0]))
    value.assign(LATER[name])
    step(tf.constant(GRADIENTS[1]))
    close(w.numpy(), oracle([(GRADIENTS[0], {}), (GRADIENTS[1], {name: LATER[name]})]))


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("kind", ["placeholder", "variable", "callable"])
@pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])
def test_hyperparameters_may_change_in_a_session(session, name, kind, use_resource):
    w = tf1.get_variable("w", initializer=START, use_resource=use_resource)
    feed = tf1.placeholder(tf.float32, [])
    value = tf1.get_variable("value", initializer=PLAIN[name], use_resource=use_resource)
    arguments = {"placeholder": feed, "variable": value, "callable": lambda: value + 0.0}
    gradient = tf1.placeholder(tf.float32, START.shape)
    train = new(**{name: arguments[kind]}).apply_gradients([(gradient, w)])
    session.run(tf1.global_variables_initializer())
    session.run(train, {gradient: GRADIENTS[0], feed: PLAIN[name]})
    value.load(LATER[name], session)
    session.run(train, {gradient: GRADIENTS[1], feed: LATER[name]})
    expected = oracle([(GRADIENTS[0], {}), (GRADIENTS[1], {name: LATER[name]})])
    close(session.run(w), expected)


@pytest.mark.parametrize("name", LATER)
def test_a_hyperparameter_may_be_a_tensor_of_another_dtype(name):
    for dtype in (tf.float64, tf.float16):  # the values are exact in both
        w = tf.Variable(START)
        optimizer = new(**{name: tf.constant(PLAIN[name], dtype)})
        optimizer.apply_gradients([(tf.constant(GRADIENTS[0]), w)])
        close(w.numpy(), oracle([(GRADIENTS[0], {})]))


def test_a_callable_is_called_once_per_step():
    calls = []

    def learning_rate():
        calls.append(None)
        return 0.5

    optimizer = NovoGrad(learning_rate=learning_rate)
    variables = [tf.Variable([1.0]), tf.Variable([2.0])]
    for _ in range(3):
        optimizer.apply_gradients([(tf.constant([1.0]), w) for w in variables])
    assert len(calls) == 3


@pytest.mark.parametrize(
    "gate",
    [
        tf1.train.Optimizer.GATE_NONE,
        tf1.train.Optimizer.GATE_OP,
        tf1.train.Optimizer.GATE_GRAPH,
    ],
)
@pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])
def test_minimize_works_with_each_gate(session, gate, use_resource):
    w = tf1.get_variable("w", initializer=START, use_resource=use_resource)
    unused = tf1.get_variable("unused", initializer=START, use_resource=use_resource)
    global_step = tf1.train.get_or_create_global_step()
    train = new().minimize(
        tf.reduce_sum(w * w) / 2, global_step, var_list=[w, unused], gate_gradients=gate, name="go"
    )
    assert isinstance(train, tf.Operation)
    assert train.name == "go"
    assert train in tf1.get_collection(tf1.GraphKeys.TRAIN_OP)
    session.run(tf1.global_variables_initializer())
    expected = START
    m, v = np.zeros_like(START), 0.0
    for _ in range(3):
        session.run(train)
        expected, m, v = reference.step(expected, m, v, expected, **PLAIN)
    close(session.run(w), expected)
    np.testing.assert_array_equal(session.run(unused), START)
    assert session.run(global_step) == 3


def test_minimize_works_in_eager_execution():
    w = tf.Variable(START)
    assert new().minimize(lambda: tf.reduce_sum(w * w) / 2, var_list=[w]) is None
    close(w.numpy(), oracle([(START, {})]))


@pytest.mark.parametrize(
    ("control_flow_v2", "use_resource"),
    # TensorFlow cannot update reference variables inside v2 control flow.
    [(False, False), (False, True), (True, True)],
)
def test_steps_work_inside_cond_and_while_loop_in_a_graph(control_flow_v2, use_resource):
    switch = tf1.enable_control_flow_v2 if control_flow_v2 else tf1.disable_control_flow_v2
    was_enabled = tf1.control_flow_v2_enabled()
    switch()
    try:
        with tf.Graph().as_default(), tf1.Session() as session:
            w = tf1.get_variable("w", initializer=START, use_resource=use_resource)
            optimizer = new()
            gradient = tf.constant(GRADIENTS[0])

            def step():
                with tf.control_dependencies([optimizer.apply_gradients([(gradient, w)])]):
                    return tf.constant(1)

            wanted = tf1.placeholder(tf.bool, [])
            once = tf.cond(wanted, step, lambda: tf.constant(0))
            thrice = tf.while_loop(lambda i: i < 3, lambda i: i + step(), [tf.constant(0)])
            session.run(tf1.global_variables_initializer())
            session.run(once, {wanted: False})
            np.testing.assert_array_equal(session.run(w), START)
            session.run(once, {wanted: True})
            close(session.run(w), oracle([(GRADIENTS[0], {})]))
            session.run(thrice)
            close(session.run(w), oracle([(GRADIENTS[0], {})] * 4))
    finally:
        (tf1.enable_control_flow_v2 if was_enabled else tf1.disable_control_flow_v2)()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_work_inside_cond_and_while_loop_in_a_function(jit_compile):
    w = tf.Variable(START)
    optimizer = new()

    @tf.function(jit_compile=jit_compile)
    def train(count):
        for _ in tf.range(count):
            if count > 1:
                optimizer.apply_gradients([(tf.constant(GRADIENTS[0]), w)])

    train(tf.constant(1))
    np.testing.assert_array_equal(w.numpy(), START)
    train(tf.constant(3))
    close(w.numpy(), oracle([(GRADIENTS[0], {})] * 3))


def test_a_function_is_traced_once():
    traces = []
    w, optimizer = tf.Variable(START), new()

    @tf.function
    def step(gradient):
        traces.append(None)
        optimizer.apply_gradients([(gradient, w)])

    for gradient in GRADIENTS:
        step(tf.constant(gradient))
    # TensorFlow traces a function twice if its first call makes variables.
    assert len(traces) <= 2
    close(w.numpy(), oracle([(g, {}) for g in GRADIENTS]))


@pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])
def test_locking_nesterov_and_constraints_work_in_a_session(session, use_resource):
    w = tf1.get_variable(
        "w", initializer=START, use_resource=use_resource, constraint=lambda x: tf.maximum(x, 0.5)
    )
    arguments = {k: v for k, v in PLAIN.items() if k != "nesterov"}
    optimizer = NovoGrad(**arguments, use_locking=True, use_nesterov=True)
    train = optimizer.apply_gradients([(tf.constant(GRADIENTS[0]), w)])
    updates = [op for op in tf1.get_default_graph().get_operations() if "ApplyMomentum" in op.type]
    assert [op.get_attr("use_locking") for op in updates] == [True]
    assert [op.get_attr("use_nesterov") for op in updates] == [True]
    session.run(tf1.global_variables_initializer())
    session.run(train)
    close(session.run(w), np.maximum(oracle([(GRADIENTS[0], {"nesterov": True})]), 0.5))


def test_a_constraint_is_applied_in_eager_execution():
    w = tf.Variable(START, constraint=lambda x: tf.maximum(x, 0.5))
    new().apply_gradients([(tf.constant(GRADIENTS[0]), w)])
    close(w.numpy(), np.maximum(oracle([(GRADIENTS[0], {})]), 0.5))


@pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])
def test_one_graph_may_have_two_optimizers_and_two_train_operations(session, use_resource):
    w = tf1.get_variable("w", initializer=START, use_resource=use_resource)
    first, second = new(), new(beta2=0.5)
    gradient = tf.constant(GRADIENTS[0])
    trains = [optimizer.apply_gradients([(gradient, w)]) for optimizer in (first, second, first)]
    assert len(first.variables()) == len(second.variables()) == 2
    assert not {v.name for v in first.variables()} & {v.name for v in second.variables()}
    session.run(tf1.global_variables_initializer())
    session.run(trains[0])
    session.run(trains[2])
    close(session.run(w), oracle([(GRADIENTS[0], {})] * 2))
    assert session.run(second.get_slot(w, "v")) == 0.0
    session.run(trains[1])
    assert session.run(second.get_slot(w, "v")) > 0.0


def test_variables_may_be_reused(session):
    def build(name):
        with tf1.variable_scope("model", reuse=tf1.AUTO_REUSE):
            w = tf1.get_variable("w", initializer=START)
            return w, new(name=name).apply_gradients([(tf.constant(GRADIENTS[0]), w)])

    w, train = build("NovoGrad")
    again, _ = build("Other")
    assert w is again
    session.run(tf1.global_variables_initializer())
    session.run(train)
    close(session.run(again), oracle([(GRADIENTS[0], {})]))


def test_slots_have_the_documented_names_shapes_and_dtypes():
    w, half = tf.Variable(START), tf.Variable(START, dtype=tf.float16)
    double = tf.Variable(START, dtype=tf.float64)
    optimizer = new()
    optimizer.apply_gradients([(tf.ones_like(x), x) for x in (w, half, double)])
    assert optimizer.get_slot_names() == ["momentum", "v"]
    assert len(optimizer.variables()) == 6
    for x, dtype in ((w, tf.float32), (half, tf.float32), (double, tf.float64)):
        momentum, v = (optimizer.get_slot(x, name) for name in ("momentum", "v"))
        assert (momentum.shape, momentum.dtype) == (x.shape, x.dtype)
        assert (v.shape, v.dtype) == ((), dtype)
        assert not v.trainable
        assert float(v) == START.size


def test_slots_in_a_graph_have_the_documented_names(session):
    w = tf1.get_variable("w", initializer=START)
    optimizer = new()
    optimizer.apply_gradients([(tf.ones_like(w), w)])
    names = {slot: optimizer.get_slot(w, slot).op.name for slot in optimizer.get_slot_names()}
    assert names == {"momentum": "w/NovoGrad", "v": "w/NovoGrad_v"}
    assert {v.op.name for v in tf1.global_variables()} == {"w", *names.values()}
    assert [v.op.name for v in tf1.trainable_variables()] == ["w"]


def test_each_partition_is_a_layer(session):
    w = tf1.get_variable(
        "w",
        initializer=tf.constant(START),
        partitioner=tf1.fixed_size_partitioner(2),
        use_resource=True,
    )
    optimizer = new()
    train = optimizer.minimize(tf.reduce_sum(tf.convert_to_tensor(w) ** 2) / 2)
    session.run(tf1.global_variables_initializer())
    session.run(train)
    norms = [float(session.run(optimizer.get_slot(part, "v"))) for part in w]
    np.testing.assert_allclose(norms, (START**2).sum(axis=1))


def test_gradients_are_not_modified():
    gradient = tf.constant(GRADIENTS[0])
    new().apply_gradients([(gradient, tf.Variable(START))])
    np.testing.assert_array_equal(gradient.numpy(), GRADIENTS[0])
