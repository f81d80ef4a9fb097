"""MultiWorkerMirroredStrategy: two real processes on the loopback equal one, for both classes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("worker.py")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def started(kind, file, config=None):
    environment = {key: x for key, x in os.environ.items() if key != "TF_CONFIG"}
    if config:
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, WORKER, kind, file],
        env=environment | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(process, file):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return dict(np.load(file))


@pytest.mark.parametrize("kind", ["documented", "keras"])
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
