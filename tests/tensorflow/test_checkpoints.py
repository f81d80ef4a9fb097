"""Saving and restoring, also of training that is killed and then continues bit for bit."""

import json
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from novograd.tensorflow import NovoGrad
from tests.helpers import programs

tf1 = tf.compat.v1

START = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def gradient(step):
    return np.random.default_rng(step + 1).standard_normal(START.shape).astype(np.float32)


class Training:
    """A v1 training in a new graph and session."""

    def __init__(self, use_resource=True):
        self.graph = tf.Graph()
        with self.graph.as_default():
            w = tf1.get_variable("w", initializer=START, use_resource=use_resource)
            self.optimizer = NovoGrad(0.1, weight_decay=0.01)
            self.gradient = tf1.placeholder(tf.float32, START.shape)
            self.train = self.optimizer.apply_gradients([(self.gradient, w)])
            self.state = [w, *(self.optimizer.get_slot(w, n) for n in ("momentum", "v"))]
            self.saver = tf1.train.Saver()
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())

    def run(self, steps):
        for step in steps:
            self.session.run(self.train, {self.gradient: gradient(step)})
        return self.session.run(self.state)

    def save(self, path):
        with self.graph.as_default():
            return self.saver.save(self.session, str(path))

    def restore(self, path):
        with self.graph.as_default():
            self.saver.restore(self.session, path)


def assert_same_bits(actual, expected):
    for x, y in zip(actual, expected, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("saved_as", [False, True], ids=["reference", "resource"])
@pytest.mark.parametrize("restored_as", [False, True], ids=["reference", "resource"])
def test_a_saver_restores_between_kinds_of_variables(tmp_path, saved_as, restored_as):
    first = Training(saved_as)
    first.run(range(5))
    path = first.save(tmp_path / "model")
    assert sorted(name for name, _ in tf.train.list_variables(path)) == [
        "w",
        "w/NovoGrad",
        "w/NovoGrad_v",
    ]
    second = Training(restored_as)
    second.restore(path)
    if saved_as == restored_as:
        assert_same_bits(second.run(range(5, 10)), first.run(range(5, 10)))
    else:  # resource variables add the weight decay in another order: one rounding
        for x, y in zip(second.run(range(5, 10)), first.run(range(5, 10)), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-6, atol=2e-6)


def eager_training(dtype="float32"):
    w = tf.Variable(START, dtype=dtype)
    optimizer = NovoGrad(0.1, weight_decay=0.01)
    return w, optimizer, tf.train.Checkpoint(w=w, optimizer=optimizer)


def eager_run(w, optimizer, steps):
    for step in steps:
        optimizer.apply_gradients([(tf.constant(gradient(step), w.dtype), w)])
    return [x.numpy() for x in (w, optimizer.get_slot(w, "momentum"), optimizer.get_slot(w, "v"))]


@pytest.mark.parametrize("restored", ["before the first step", "after a step"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_checkpoint_continues_in_eager_execution(tmp_path, restored, dtype):
    w, optimizer, checkpoint = eager_training(dtype)
    eager_run(w, optimizer, range(5))
    path = checkpoint.save(str(tmp_path / "checkpoint"))
    expected = eager_run(w, optimizer, range(5, 10))

    w, optimizer, checkpoint = eager_training(dtype)
    if restored == "after a step":
        eager_run(w, optimizer, [99])
    checkpoint.restore(path).assert_existing_objects_matched()
    assert_same_bits(eager_run(w, optimizer, range(5, 10)), expected)


def test_a_checkpoint_can_be_restored_before_the_variable_exists(tmp_path):
    w, optimizer, checkpoint = eager_training()
    eager_run(w, optimizer, range(5))
    path = checkpoint.save(str(tmp_path / "checkpoint"))
    expected = eager_run(w, optimizer, range(5, 10))

    optimizer = NovoGrad(0.1, weight_decay=0.01)
    holder = tf.train.Checkpoint(optimizer=optimizer)
    loaded = holder.restore(path)
    holder.w = tf.Variable(np.zeros_like(START))
    loaded.assert_existing_objects_matched()
    assert_same_bits(eager_run(holder.w, optimizer, range(5, 10)), expected)


def test_a_checkpoint_in_a_graph_keeps_every_bit(tmp_path):
    def build():
        w = tf1.get_variable("w", initializer=START, use_resource=True)
        optimizer = NovoGrad(0.1)
        feed = tf1.placeholder(tf.float32, START.shape)
        train = optimizer.apply_gradients([(feed, w)])
        state = [w, optimizer.get_slot(w, "momentum"), optimizer.get_slot(w, "v")]
        return feed, train, state, tf1.train.Checkpoint(w=w, optimizer=optimizer)

    with tf.Graph().as_default(), tf1.Session() as session:
        feed, train, state, checkpoint = build()
        session.run(tf1.global_variables_initializer())
        for step in range(5):
            session.run(train, {feed: gradient(step)})
        path = checkpoint.save(str(tmp_path / "checkpoint"), session)
        expected = session.run(state)
    with tf.Graph().as_default(), tf1.Session() as session:
        _, _, state, checkpoint = build()
        checkpoint.restore(path).assert_consumed().run_restore_ops(session)
        assert_same_bits(session.run(state), expected)


def test_killed_and_resumed_training_continues_bit_for_bit(tmp_path):
    program = "tests.tensorflow.resumable_training"
    whole = programs.run(program, tmp_path / "whole", 40)
    # This run is too long to finish. It is killed as soon as it has saved.
    killed = programs.start(program, tmp_path / "killed", 10**9)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / "model-10.index").exists():
            assert killed.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline, "the training has not saved anything"
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    # Remove files saved after step 10, so that steps are left for the resumed run.
    for later in (tmp_path / "killed").glob("model-*"):
        if int(later.name.split("-")[1].split(".")[0]) > 10:
            later.unlink()
    resumed = programs.run(program, tmp_path / "killed", 40)
    first, second = (json.loads(printed.splitlines()[-1]) for printed in (whole, resumed))
    assert first["started_at"] == 0
    assert second["started_at"] == 10
    assert first["state"] == second["state"]
