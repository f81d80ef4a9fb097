"""Keras uses the native kernels with PyTorch and JAX, and the results agree with the rule."""

import keras
import numpy as np
import pytest

from novograd.keras import NovoGrad, optimizer, plain
from novograd.layers import Rows, Split, Stacked

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no native kernels")


LAYERS = {"w0": Split((1, 2)), "w1": Rows(), "w2": Stacked(), "w3": None}


def variables():
    random = np.random.default_rng(0)
    return [
        keras.Variable(random.standard_normal(shape), dtype=dtype, name=f"w{i}")
        for i, (shape, dtype) in enumerate(
            [((3, 5), "float32"), ((7,), "float32"), ((4, 2), "bfloat16"), ((), "float32")]
        )
    ]


def gradients(step):
    random = np.random.default_rng(1 + step)
    return [
        keras.ops.convert_to_tensor(random.standard_normal(w.shape), w.dtype) for w in variables()
    ]


def trained(**options):
    """Returns the weights and state after a few steps. One weight does not decay."""
    weights = variables()
    novograd = NovoGrad(0.1, weight_decay=0.1, **options)
    novograd.exclude_from_weight_decay(var_names=["w1"])
    for step in range(5):
        novograd.apply(gradients(step), weights)
    stored = [*weights, *novograd.variables]
    return [keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in stored]


def count_kernel_updates(monkeypatch):
    """Returns a list that gets the number of variables that the kernels update, at each step."""
    taken = []
    step = optimizer.backend.step

    def watch(layers, hyper):
        rest = step(layers, hyper)
        taken.append(len(layers) - len(rest))
        return rest

    monkeypatch.setattr(optimizer.backend, "step", watch)
    return taken


@pytest.mark.parametrize("layers", [None, lambda w: LAYERS[w.name]], ids=["whole", "layers"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_kernels_update_all_variables_and_agree_with_the_rule(monkeypatch, nesterov, layers):
    taken = count_kernel_updates(monkeypatch)
    by_kernels = trained(nesterov=nesterov, layers=layers)
    assert taken == [4] * 5
    monkeypatch.setattr(optimizer.backend, "step", plain.step)
    by_rule = trained(nesterov=nesterov, layers=layers)
    for one, other in zip(by_kernels, by_rule, strict=True):
        # A step has a few float32 roundings, so bfloat16 may round to the next number.
        np.testing.assert_allclose(one, other, rtol=1e-2 if one.shape == (4, 2) else 1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="on JAX, novograd.jax handles these layers itself")
def test_variables_without_a_kernel_are_updated_by_the_rule(monkeypatch):
    """Layers along two axes with a third axis between them have no kernel."""
    taken = count_kernel_updates(monkeypatch)
    whole, layered = (keras.Variable(np.ones((3, 5, 2)), dtype="float32") for _ in range(2))
    novograd = NovoGrad(layers=lambda w: Stacked((0, 2)) if w is layered else None)
    novograd.apply([keras.ops.ones((3, 5, 2))] * 2, [whole, layered])
    assert taken == [1]
    norms = [keras.ops.convert_to_numpy(v).ravel().tolist() for v in novograd.variables[3::2]]
    assert norms == [[30], [5] * 6]


def test_stateless_apply_changes_nothing_in_place():
    weights = variables()
    novograd = NovoGrad(0.1)
    novograd.build(weights)
    before = [keras.ops.convert_to_tensor(x) for x in (*weights, *novograd.variables)]
    copies = [np.array(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))) for x in before]
    after = novograd.stateless_apply(before[len(weights) :], gradients(0), before[: len(weights)])
    assert not np.allclose(keras.ops.convert_to_numpy(after[0][0]), copies[0])
    for x, copy in zip(before, copies, strict=True):
        now = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
        np.testing.assert_array_equal(now, copy)


@pytest.mark.skipif(BACKEND != "jax", reason="reads a compiled program of JAX")
def test_a_compiled_step_is_one_call():
    import jax

    weights = variables()
    novograd = NovoGrad(0.1)
    novograd.build(weights)
    state = [x.value for x in novograd.variables]
    values = [w.value for w in weights]
    program = jax.jit(novograd.stateless_apply).lower(state, values, values).as_text()
    assert program.count("@novograd_step(") == 1
