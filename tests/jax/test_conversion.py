"""``novograd.checkpoint`` reads and writes files of Flax."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from novograd.checkpoint import CheckpointError, how_to_load, read, write
from novograd.jax import novograd
from novograd.layers import Rows
from novograd.variants import get
from tests.helpers import loading


def trained(optimizer, dtype=jnp.float32):
    params = {"dense": {"kernel": jnp.ones((3, 2), dtype), "bias": jnp.ones(2, dtype)}}
    state = optimizer.init(params)
    for step in range(3):
        gradients = jax.tree.map(lambda w, step=step: w * (step + 1), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("variant", ["documented", "nvidia-amsgrad", "rows"])
def test_a_state_keeps_every_bit_after_reading_and_writing(tmp_path, variant, dtype):
    optimizer = novograd(0.1, variant=variant, layers=Rows())
    params, state = trained(optimizer, dtype)
    (tmp_path / "source").write_bytes(flax.serialization.to_bytes(state))
    checkpoint = read(tmp_path / "source", "jax", variant=variant)
    assert list(checkpoint.entries) == ["dense/bias", "dense/kernel"]
    assert checkpoint.step == 3
    write(checkpoint, tmp_path / "target", "jax")
    content = (tmp_path / "target").read_bytes()
    assert_same_bits(flax.serialization.from_bytes(optimizer.init(params), content), state)


def test_a_state_of_rows_from_pytorch_continues_with_its_rows(tmp_path):
    """PyTorch has the output units on the first axis, JAX on the last."""
    checkpoint = loading.made({"kernel": (3, 2), "bias": (2,)}, get("rows"), False, rows=True)
    write(checkpoint, tmp_path / "state", "jax")
    lines = how_to_load(checkpoint, tmp_path / "state", "jax")
    assert "variant='rows')  # with the layers of the source" in lines
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    optimizer = novograd(0.1, variant="rows", layers=Rows(0, scale="rms"))
    content = (tmp_path / "state").read_bytes()
    state = flax.serialization.from_bytes(optimizer.init(params), content)
    np.testing.assert_array_equal(state.nu["kernel"], checkpoint.entries["kernel"].v)
    optimizer.update(params, jax.tree.map(jnp.asarray, state), params)


@pytest.mark.parametrize("weights", [False, True])
def test_the_printed_last_line_puts_the_state_into_a_chain(tmp_path, weights):
    shapes = {"kernel": (3, 2), "bias": (2,)}
    checkpoint = loading.made(shapes, get("documented"), weights)
    write(checkpoint, tmp_path / "state", "jax")
    *lines, last = how_to_load(checkpoint, tmp_path / "state", "jax").splitlines()
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    scope = {"params": params}
    exec("\n".join(["import pathlib, flax.serialization, novograd.jax", *lines]), scope)
    chain = optax.chain(optax.clip_by_global_norm(1.0), scope["optimizer"])
    scope["chain_state"] = chain.init(params)
    exec(last.partition(": ")[2], scope)
    _, after = jax.jit(chain.update)(params, scope["chain_state"], params)
    assert after[1].count == 8
    np.testing.assert_array_equal(
        scope["chain_state"][1].mu["kernel"], checkpoint.entries["kernel"].moment
    )


def decaying(decay):
    return optax.novograd(0.1, weight_decay=decay)


LABELS = {"dense": {"kernel": "decays", "bias": "does not"}}
WRAPPED = {
    "chain": optax.chain(optax.clip(1.0), decaying(0.1)),
    "injected": optax.inject_hyperparams(optax.novograd)(learning_rate=0.1),
    "several": optax.multi_transform({"decays": decaying(0.1), "does not": decaying(0.0)}, LABELS),
    "accumulated": optax.MultiSteps(decaying(0.1), 1),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_state_of_optax_is_found_inside_wrapper_states(tmp_path, name):
    params, state = trained(WRAPPED[name])
    content = {"step": 3, "params": params, "opt_state": state}
    (tmp_path / "source").write_bytes(flax.serialization.to_bytes(content))
    checkpoint = read(tmp_path / "source", "optax", weights=True)
    assert {*checkpoint.entries} == {"dense/kernel", "dense/bias"}
    states = jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "nu"))
    for one in (x for x in states if hasattr(x, "nu")):
        for path, moment in jax.tree_util.tree_leaves_with_path(one.mu):
            entry = checkpoint.entries["/".join(key.key for key in path)]
            assert_same_bits(entry.moment, moment)
            assert entry.step == 3
    assert_same_bits(checkpoint.entries["dense/kernel"].weights, params["dense"]["kernel"])


def test_arrays_in_chunks_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 8)  # bytes; the default is a gigabyte
    _, state = trained(novograd(0.1))
    (tmp_path / "source").write_bytes(flax.serialization.to_bytes(state))
    assert b"__msgpack_chunked_array__" in (tmp_path / "source").read_bytes()
    checkpoint = read(tmp_path / "source", "jax")
    assert_same_bits(checkpoint.entries["dense/kernel"].moment, state.mu["dense"]["kernel"])


def test_other_optimizers_are_refused(tmp_path):
    _, state = trained(optax.adam(0.1))
    (tmp_path / "source").write_bytes(flax.serialization.to_bytes(state))
    with pytest.raises(CheckpointError, match="so it is not of optax"):
        read(tmp_path / "source", "optax")
    _, state = trained(novograd(0.1))
    (tmp_path / "source").write_bytes(flax.serialization.to_bytes(state))
    with pytest.raises(CheckpointError, match="it has no state of optax"):
        read(tmp_path / "source", "optax")


def test_names_that_do_not_form_a_tree_are_refused(tmp_path):
    _, state = trained(novograd(0.1))
    (tmp_path / "source").write_bytes(flax.serialization.to_bytes(state))
    for names in (["w", "w/bias"], ["w/bias", "w"]):
        checkpoint = read(tmp_path / "source", "jax", names=names)
        with pytest.raises(CheckpointError, match="below"):
            write(checkpoint, tmp_path / "target", "jax")


def test_the_printed_lines_load_the_file_and_a_full_disk_destroys_nothing(tmp_path, monkeypatch):
    loading.check_target("jax", tmp_path, monkeypatch)
