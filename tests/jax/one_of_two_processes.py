"""One of two processes that train together: ``one_of_two_processes.py ADDRESS RANK FOLDER``."""

import pickle
import sys
from pathlib import Path

import jax
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from novograd.jax import novograd
from tests.jax.test_sharding import HYPER, LAYERS, layered

address, rank, folder = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
assert (jax.device_count(), jax.local_device_count()) == (8, 4)

mesh, specs, weights, gradients = layered("both axes")
shardings = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
optimizer = novograd(0.1, **HYPER, layers=LAYERS)


@jax.jit
def step(gradient, w, state):
    updates, state = optimizer.update(gradient, state, w)
    return optax.apply_updates(w, updates), state


w = jax.device_put(weights, shardings)
state = optimizer.init(w)
for gradient in gradients:
    w, state = step(jax.device_put(gradient, shardings), w, state)
result = multihost_utils.process_allgather((w, state.mu, state.nu), tiled=True)
Path(folder, rank).write_bytes(pickle.dumps(result))
