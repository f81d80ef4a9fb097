"""Trains a small network in a v1 Session and saves every ten steps. Continues from the last save.

test_checkpoints.py runs ``resumable_training.py FOLDER STEPS``. It prints the final state in hex.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from novograd.tensorflow import NovoGrad

tf1 = tf.compat.v1


def main(folder: Path, steps: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    inputs, targets = random.standard_normal((64, 5)), random.standard_normal((64, 1))
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        x, y = tf1.placeholder(tf.float32, [None, 5]), tf1.placeholder(tf.float32, [None, 1])
        w1 = tf1.get_variable("w1", [5, 8], use_resource=True)
        w2 = tf1.get_variable("w2", [8, 1], use_resource=True)
        loss = tf.reduce_mean((tf.tanh(x @ w1) @ w2 - y) ** 2)
        step = tf1.train.get_or_create_global_step()
        learning_rate = tf1.train.cosine_decay(0.05, step, 100)
        train = NovoGrad(learning_rate, weight_decay=0.01).minimize(loss, step)
        saver = tf1.train.Saver(max_to_keep=None)
        session.run(tf1.global_variables_initializer())
        saved = sorted(folder.glob("model-*.index"), key=lambda p: int(p.stem.split("-")[1]))
        if saved:
            saver.restore(session, str(saved[-1].with_suffix("")))
        started_at = int(session.run(step))
        for i in range(started_at, steps):
            batch = slice(8 * (i % 8), 8 * (i % 8) + 8)
            session.run(train, {x: inputs[batch], y: targets[batch]})
            if (i + 1) % 10 == 0:
                saver.save(session, str(folder / "model"), global_step=i + 1)
        state = {v.op.name: session.run(v).tobytes().hex() for v in tf1.global_variables()}
    print(json.dumps({"started_at": started_at, "state": state}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
