"""Writes and resumes checkpoints of TensorFlow and its peers for test_exactness.py."""

import os
import sys
from functools import partial
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

from novograd import checkpoint
from novograd.checkpoint import CheckpointError
from novograd.tensorflow import NovoGrad
from tests.checkpoint import training
from tests.checkpoint.training import IN_ORDER, LR, NAMES, SAVED, WEIGHT_DECAY, betas

tf1 = tf.compat.v1


class Training:
    """A training in its own graph and session."""

    def __init__(self, optimizer, weights):
        self.graph = tf.Graph()
        with self.graph.as_default():
            tf1.train.get_or_create_global_step()
            self.weights = [tf1.get_variable(n, initializer=w) for n, w in weights.items()]
            self.gradients = [tf1.placeholder(tf.float32, w.shape) for w in self.weights]
            pairs = zip(self.gradients, self.weights, strict=True)
            self.train = optimizer.apply_gradients(pairs, tf1.train.get_global_step())
            self.saver = tf1.train.Saver()
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())

    def run(self, first):
        for step in range(first, first + SAVED):
            values = training.gradients(step).values()
            self.session.run(self.train, dict(zip(self.gradients, values, strict=True)))
        return dict(zip(NAMES, self.session.run(self.weights), strict=True))

    def save(self, path):
        with self.graph.as_default():
            self.saver.save(self.session, str(path), write_meta_graph=False)

    def restore(self, path):
        with self.graph.as_default():
            self.saver.restore(self.session, str(path))


def novograd(lr=LR, **changes):
    beta1, beta2 = betas("documented")
    return NovoGrad(lr, beta1, beta2, weight_decay=WEIGHT_DECAY, **changes)


def save_openseq2seq(path, states):
    """Saves weights, momentum slots of ``NovoGrad2`` and averages that stay 0, with a Saver."""
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.get_variable("global_step", initializer=np.int64(SAVED), trainable=False)
        for number, (name, state) in enumerate(states.items()):
            tf1.get_variable(name, initializer=np.float32(state.w))
            with tf1.variable_scope(name):
                tf1.get_variable("NovoGrad2", initializer=np.float32(state.m))
            tf1.get_variable(f"nvgrad2_ema{number}", initializer=np.float32(0))
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(path), write_meta_graph=False)


class KerasTwo(tf1.train.Optimizer):
    """An optimizer whose slots ``tf.train.Checkpoint`` saves in the layout of Keras 2."""

    def __init__(self, states, **hyperparameters):
        super().__init__(False, "NovoGrad")
        for name, value in hyperparameters.items():
            self._track_trackable(tf.Variable(value), name)
        self.weights = {name: tf.Variable(np.float32(x.w)) for name, x in states.items()}
        for name, x in states.items():
            for slot, value in (("m", -x.m), ("v", x.v)):
                value = tf.constant(np.float32(value))
                self._get_or_make_slot(self.weights[name], value, slot, slot)


def save_tfa(path, states):
    beta_1, beta_2 = betas("tfa")
    optimizer = KerasTwo(
        states,
        iter=np.int64(SAVED),
        learning_rate=np.float32(LR),
        beta_1=np.float32(beta_1),
        beta_2=np.float32(beta_2),
        weight_decay=np.float32(WEIGHT_DECAY),
        grad_averaging=np.float32(0),
        decay=np.float32(0),
    )
    tf.train.Checkpoint(optimizer=optimizer, **optimizer.weights).write(str(path))


def write(folder):
    """Makes every source of TensorFlow, and converts it to the neutral form."""
    run = Training(novograd(), training.start())
    middle = run.run(0)
    run.save(folder / "tf1.source")
    training.record(folder, "tf1", middle, run.run(SAVED))
    for row, save in (("openseq2seq", save_openseq2seq), ("tfa", save_tfa)):
        training.simulate(folder, row, row, partial(save, folder / f"{row}.source"))
    for row in ("tf1", "openseq2seq", "tfa"):
        training.neutral(folder, row, kind=row, names=IN_ORDER)
    # This row is trained with one rule and then continues with the documented rule.
    row = "openseq2seq, as documented"
    weights = checkpoint.read(folder / "openseq2seq.safetensors", "safetensors", weights=True)
    moved = checkpoint.as_variant(weights, "documented")
    checkpoint.write(moved, folder / f"{row}.safetensors", "safetensors")
    states = {
        n: training.State(np.float64(x.weights), LR * np.float64(weights.entries[n].moment), 0.0, 0)
        for n, x in moved.entries.items()
    }
    training.record(folder, row, {}, training.documented(states))


def resume(folder):
    """Continues from every source that has the documented rule, in a real Session."""
    for row, read in training.sources(folder).items():
        path = folder / f"{row}.ckpt"
        try:
            checkpoint.write(read, path, "tensorflow")
        except CheckpointError as error:
            assert "documented rule only" in str(error)  # noqa: PT017
            assert read.variant.name != "documented"
            continue
        run = Training(novograd(), training.start())
        run.restore(path)
        training.save(folder, row, "tensorflow", run.run(SAVED))


if __name__ == "__main__":
    {"write": write, "resume": resume}[sys.argv[1]](Path(sys.argv[2]))
