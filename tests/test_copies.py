"""What is public can be copied and pickled wherever the framework's own optimizers can.

Each framework has a process of its own, which runs this file.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle
import pytest

FRAMEWORKS = ("none", "torch", "jax", "tensorflow", "keras-tensorflow", "keras-torch", "keras-jax")
WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
}


class Case(NamedTuple):
    """Something public.

    Attributes:
        make: Makes it; two that were made are equal.
        does: What it holds or does, as something that can be compared.
        control: Makes the framework's own of its kind, which may not survive everything; None where
            all must be survived.
    """

    make: Callable[[], Any]
    does: Callable[[Any], Any]
    control: Callable[[], Any] | None = None


def problem(case, way, make):
    """Why what is made does not survive a way, or None."""
    try:
        expected, after = case.does(make()), case.does(way(make()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if after == expected else f"{after} is not {expected}"


def report(cases, ways):
    """Returns the problems of everything public, and of its control, in each way."""
    return [
        [
            name,
            way,
            problem(case, run, case.make),
            problem(case, run, case.control) if case.control else None,
        ]
        for name, case in cases.items()
        for way, run in ways.items()
    ]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_public_survives_what_its_control_does(framework):
    environment = {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": framework.removeprefix("keras-"),
    }
    command = [sys.executable, __file__, framework.partition("-")[0]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [(name, way, ours) for name, way, ours, control in rows if ours and not control] == []
    # And the controls survive everything but pickle, or the line above would not tell much.
    assert [(name, control) for name, way, _, control in rows if control and way != "pickle"] == []


# -- what is public, by framework -----------------------------------------------------------------


def of_none():
    from novograd import variants
    from novograd.compare import Segmentation, Task
    from novograd.layers import Rows, Split, Stacked

    task = dict.fromkeys(("model", "batches", "test", "loss", "metric"), len)
    made = [
        Stacked((0, 1)),
        Split((2, 3), axis=1),
        Rows(axes=0, scale="rms"),
        variants.get("optax"),
        Task(**task, learning_rates={"adam": 0.1}),
        Segmentation(1, 2, 3, ("a",)),
    ]
    cases = {type(one).__name__: Case(lambda one=one: one, lambda x: (type(x), x)) for one in made}
    return cases, WAYS


def of_torch():
    import torch

    from novograd.torch import NovoGrad, no_decay

    def model():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 2)

    def step(optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    def does(optimizer):
        step(optimizer)
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        return type(optimizer), str([w.tolist() for w in weights]), str(optimizer.state_dict())

    def fresh(kind, **arguments):
        return lambda: kind(no_decay(model(), weight_decay=0.1), lr=0.1, **arguments)

    def trained(kind, **arguments):
        return lambda: step(fresh(kind, **arguments)())

    adamw = torch.optim.AdamW
    return {
        "NovoGrad": Case(fresh(NovoGrad), does, fresh(adamw)),
        "NovoGrad after a step": Case(trained(NovoGrad), does, trained(adamw)),
        "NovoGrad of a variant": Case(trained(NovoGrad, variant="apex"), does, trained(adamw)),
        "no_decay": Case(lambda: no_decay(model(), weight_decay=0.1), str),
    }, WAYS


def of_jax():
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from novograd.jax import Novograd, novograd, scale_by_novograd
    from novograd.layers import Rows

    weights = {"a": jnp.ones((2, 3)), "b": jnp.array([3.0, 4.0])}

    def shown(tree):
        return str(jax.tree.map(lambda x: np.asarray(x).tolist(), tree))

    def does(optimizer):
        init, update = optimizer
        updates, state = jax.jit(update)(weights, init(weights), weights)
        step = getattr(optimizer, "step", None)
        stepped = step and step(weights, state, weights)
        return type(optimizer), shown((updates, state, stepped))

    def arguments():
        return {
            "weight_decay": jnp.array(0.1),
            "mask": {"a": True, "b": False},
            "layers": {"a": Rows(), "b": None},
        }

    def state():
        return novograd(0.1, **arguments()).init(weights)

    def adam():
        return optax.adam(0.1)

    return {
        "novograd": Case(lambda: novograd(0.1, **arguments()), does, adam),
        "novograd of numbers": Case(lambda: novograd(0.1), does),
        "novograd of a schedule": Case(
            lambda: novograd(optax.linear_schedule(0.1, 0.0, 9)), does, adam
        ),
        "scale_by_novograd": Case(lambda: scale_by_novograd(**arguments()), does, adam),
        "Novograd": Case(lambda: Novograd(*novograd(0.1)), does, adam),
        "NovogradState": Case(state, lambda x: (type(x), shown(x))),
    }, WAYS | {
        "tree.map": lambda x: jax.tree.map(lambda leaf: leaf, x),
        "fields": lambda x: type(x)(*x),
        "_replace": lambda x: x._replace(),
    }


def of_tensorflow():
    import tensorflow as tf

    from novograd.tensorflow import NovoGrad

    def step(optimizer, variable):
        optimizer.apply_gradients([(tf.constant([3.0, 4.0]), variable)])
        return optimizer

    def does(optimizer):
        variable = tf.Variable([1.0, 2.0])
        step(optimizer, variable)
        step(optimizer, variable)
        return type(optimizer), str([x.numpy() for x in (variable, *optimizer.variables())])

    def trained(make):
        return lambda: step(make(), tf.Variable([1.0, 2.0]))

    def ours():
        return NovoGrad(0.1)

    def momentum():
        return tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)

    return {
        "NovoGrad": Case(ours, does, momentum),
        "NovoGrad after a step": Case(trained(ours), does, trained(momentum)),
    }, WAYS


def of_keras():
    import keras
    import numpy as np

    from novograd.keras import NovoGrad

    def does(optimizer):
        variable = keras.Variable(np.float32([1.0, 2.0]))
        optimizer.apply([keras.ops.convert_to_tensor(np.float32([3.0, 4.0]))], [variable])
        values = [keras.ops.convert_to_numpy(x) for x in (variable, *optimizer.variables)]
        return type(optimizer), str(values), str(optimizer.get_config())

    def ours():
        return NovoGrad(0.1, weight_decay=0.01, name="ours")

    def adam():
        return keras.optimizers.Adam(0.1, weight_decay=0.01, name="adam")

    # None after a step: copies of Keras's own optimizers have forgotten it.
    return {"NovoGrad": Case(ours, does, adam)}, WAYS


if __name__ == "__main__":
    print(json.dumps(report(*globals()[f"of_{sys.argv[1]}"]())))
