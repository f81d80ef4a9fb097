"""Train with NovoGrad as in Clara Train 3.1: a graph, a Session, a Saver, the documented import.

python examples/hosts/clara_train.py
"""

import tempfile

import numpy as np
import tensorflow.compat.v1 as tf
from sklearn.datasets import load_digits

from ai4med.libs.optimizers import NovoGrad

tf.disable_eager_execution()


def graph():
    """Builds the graph and returns the placeholders and operations that the loop needs."""
    images = tf.placeholder(tf.float32, (None, 64))
    labels = tf.placeholder(tf.int64, (None,))
    random = tf.random_normal_initializer(stddev=0.1, seed=0)
    hidden = tf.get_variable("hidden", (64, 64), initializer=random)
    out = tf.get_variable("out", (64, 10), initializer=random)
    logits = tf.nn.relu(images @ hidden) @ out
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    loss = tf.reduce_mean(losses)
    global_step = tf.train.get_or_create_global_step()
    rate = tf.train.cosine_decay(0.02, global_step, 100)
    train = NovoGrad(rate, weight_decay=1e-3).minimize(loss, global_step)
    return images, labels, loss, global_step, train


def main():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32) / 16, y[order]
    images, labels, loss, global_step, train = graph()
    saver = tf.train.Saver()
    losses = []

    def run(session, steps):
        for _ in range(steps):
            start = 64 * (session.run(global_step) % 28)
            feed = {images: x[start : start + 64], labels: y[start : start + 64]}
            losses.append(session.run([loss, train], feed)[0])

    with tempfile.TemporaryDirectory() as folder:
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            run(session, 40)
            path = saver.save(session, f"{folder}/model")
        with tf.Session() as session:
            saver.restore(session, path)
            assert session.run(global_step) == 40
            run(session, 40)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
