"""One of the processes of test_multi_worker.py. Trains and writes its weights.

Usage: ``python worker.py CLASS FILE``. TF_CONFIG is set unless the process trains alone.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from novograd.layers import Rows, Split

STEPS, BATCH = 20, 8
SHAPES = {"kernel": (6, 4), "fused": (4, 9), "bias": (4,)}
OPTIONS = {"learning_rate": 0.02, "weight_decay": 0.05}


def layers(variable):
    name = variable.name.split(":")[0]
    return {"kernel": Rows(), "fused": Split((3, 3, 3), axis=1)}.get(name)


def optimizer_of(kind):
    if kind == "keras":
        from novograd.keras import NovoGrad
    else:
        from novograd.tensorflow import NovoGrad
    return NovoGrad(layers=layers, **OPTIONS)


def main(kind, file):
    alone = "TF_CONFIG" not in os.environ
    strategy = (
        tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
    )
    random = np.random.default_rng(0)
    variable = keras.Variable if kind == "keras" else tf.Variable
    with strategy.scope():
        weights = [
            variable(0.5 * random.standard_normal(shape).astype("float32"), name=name)
            for name, shape in SHAPES.items()
        ]
        optimizer = optimizer_of(kind)
        if kind == "keras":
            optimizer.build(weights)

    def replica_step(x):
        with tf.GradientTape() as tape:
            hidden = tf.tanh(x @ weights[0] + weights[2])
            # Divide by the size of the whole batch: the gradients of the replicas are added.
            loss = tf.reduce_sum(tf.square(hidden @ weights[1])) / BATCH
        watched = [getattr(w, "value", w) if kind == "keras" else w for w in weights]
        gradients = tape.gradient(loss, watched)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    @tf.function
    def step(x):
        strategy.run(replica_step, args=(x,))

    rank = 0 if alone else strategy.cluster_resolver.task_id
    count = strategy.num_replicas_in_sync
    for _ in range(STEPS):
        x = random.standard_normal((BATCH, 6)).astype("float32")
        step(tf.constant(x[rank * BATCH // count : (rank + 1) * BATCH // count]))
    np.savez(file, **{n: w.numpy() for n, w in zip(SHAPES, weights, strict=True)}, replicas=count)


if __name__ == "__main__":
    main(*sys.argv[1:])
