"""MultiWorkerMirroredStrategy: two processes give the same weights as one, for both classes."""

import json
import socket

import numpy as np
import pytest

from tests.helpers import programs
from tests.helpers.parameters import some


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def started(kind, file, config=None):
    environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    if config:
        environment["TF_CONFIG"] = json.dumps(config)
    return programs.start("tests.tensorflow.worker", kind, file, **environment)


def weights(process, file):
    programs.finish(process)
    return dict(np.load(file))


@pytest.mark.parametrize("kind", some(["documented", "keras"], kept=["documented"]))
def test_two_workers_equal_one(tmp_path, kind):
    alone = tmp_path / "alone.npz"
    expected = weights(started(kind, alone), alone)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    files = [tmp_path / f"{i}.npz" for i in range(2)]
    processes = [
        started(kind, file, {"cluster": cluster, "task": {"type": "worker", "index": i}})
        for i, file in enumerate(files)
    ]
    first, second = (weights(*one) for one in zip(processes, files, strict=True))
    assert (expected.pop("replicas"), first.pop("replicas"), second.pop("replicas")) == (1, 2, 2)
    for name, w in expected.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], w, rtol=1e-5, atol=1e-6)
