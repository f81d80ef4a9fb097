"""The neutral form: its files, files of JAX, names, variants, and the errors for wrong files."""

import json
import random
from dataclasses import replace

import msgpack
import numpy as np
import pytest
import safetensors.numpy

from novograd import results, variants
from novograd.checkpoint import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    as_variant,
    lost,
    read,
    write,
)
from tests.checkpoint.samples import assert_same_bits, made

MINE = replace(variants.get("nvidia-amsgrad"), name="mine", decay="decoupled")


@pytest.mark.parametrize("variant", ["documented", "nvidia-amsgrad", MINE], ids=str)
def test_a_neutral_file_keeps_every_bit(tmp_path, variant):
    checkpoint = made(variant)
    write(checkpoint, tmp_path / "state", "safetensors")
    again = read(tmp_path / "state", "safetensors", weights=True)
    assert_same_bits(again, checkpoint)
    assert again.groups == checkpoint.groups
    assert again.variant == checkpoint.variant
    without = read(tmp_path / "state", "safetensors")
    assert all(entry.weights is None for entry in without.entries.values())


@pytest.mark.parametrize("variant", ["documented", "nvidia-amsgrad"])
def test_a_file_of_jax_keeps_every_bit_of_the_state(tmp_path, variant):
    checkpoint = made(variant)
    write(checkpoint, tmp_path / "state", "jax")
    again = read(tmp_path / "state", "jax", variant=variant, weights=True)
    assert_same_bits(again, checkpoint)


def test_a_weight_that_was_never_trained_keeps_its_place(tmp_path):
    checkpoint = made()
    frozen = replace(checkpoint, groups=(*checkpoint.groups, Group(("frozen",))))
    write(frozen, tmp_path / "state", "safetensors")
    again = read(tmp_path / "state", "safetensors")
    assert again.names[-1] == "frozen"
    with pytest.raises(CheckpointError, match=r"JAX needs a state for every weight.*'frozen'"):
        write(frozen, tmp_path / "other", "jax")


def small(variant="documented", lr=0.5, **more):
    entry = Entry(np.float32([3, 4]), np.float32(25), **more)
    return Checkpoint({"w": entry}, variants.get(variant), (Group(("w",), Hyperparameters(lr=lr)),))


def three(tmp_path):
    entries = {name: Entry(np.zeros(2, np.float32), np.float32(1), step=1) for name in "abc"}
    write(
        Checkpoint(entries, variants.DOCUMENTED, (Group(("a", "b", "c")),)), tmp_path / "f", "jax"
    )
    return tmp_path / "f"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ["a", "b", "c"]),
        (["x", "y", "z"], ["x", "y", "z"]),
        ({"b": "y"}, ["a", "y", "c"]),
        ({"c": "z", "a": "x", "b": "b"}, ["z", "x", "b"]),  # all names: also their order
        (lambda name: f"model.{name}", ["model.a", "model.b", "model.c"]),
    ],
)
def test_names_can_be_changed(tmp_path, names, expected):
    assert list(read(three(tmp_path), "jax", names=names).entries) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x"], "one name for each of 3 weights, got 1; the source has a, b, c"),
        ({"d": "x"}, "names has 'd', which is not in the source: a, b, c"),
        ({"a": "b"}, "several weights have the name 'b'"),
        (lambda name: "x", "several weights have the name 'x'"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, names, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read(three(tmp_path), "jax", names=names)
    assert str(tmp_path / "f") in str(error.value)


def test_a_change_of_variant_scales_the_momentum_buffer_by_the_learning_rate():
    into = as_variant(small("openseq2seq"), "documented").entries["w"]
    assert into.moment.tolist() == [1.5, 2.0]
    assert into.moment.dtype == np.float32
    assert as_variant(small("documented"), "nvidia").entries["w"].moment.tolist() == [6.0, 8.0]
    assert as_variant(small("documented"), "tfa").entries["w"].moment.tolist() == [3.0, 4.0]
    assert as_variant(small("nvidia"), "nvidia-amsgrad").entries["w"].v_max == 25
    assert as_variant(small("nvidia-amsgrad", v_max=9.0), "nvidia").entries["w"].v_max is None


@pytest.mark.parametrize(
    ("source", "variant", "message"),
    [
        (small("optax", lr=None), "documented", "multiplied by the learning rate.*got None"),
        (small("documented", lr=0.0), "optax", "divided by the learning rate: give lr.*got 0.0"),
        (small("apex-inf"), "nvidia", "v is of another kind"),
        (small("apex"), "nvidia", "the momentum buffer is of another kind"),
    ],
)
def test_a_change_to_an_incompatible_variant_is_refused(source, variant, message):
    with pytest.raises(CheckpointError, match=message):
        as_variant(source, variant)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": np.zeros(2)}, r"v of 'w' has shape \(2,\)"),
        ({"v": np.zeros((4, 1))}, r"v of 'w' has shape \(4, 1\)"),
        ({"v_max": np.float32(1)}, "'w' has a maximum of v, but the variant is 'documented'"),
        ({"weights": np.zeros((4, 3))}, r"the weight 'w' has shape \(4, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    entry = Entry(np.zeros((3, 4), np.float32), np.float32(1))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint({"w": replace(entry, **change)}, variants.DOCUMENTED, (Group(("w",)),))


def test_different_steps_become_one_count_unless_the_rule_needs_them(tmp_path):
    def of(variant):
        checkpoint = made(variant)
        first = checkpoint.names[0]
        earlier = replace(checkpoint.entries[first], step=11)
        return replace(checkpoint, entries={**checkpoint.entries, first: earlier})

    write(of("nvidia"), tmp_path / "state", "jax")
    assert read(tmp_path / "state", "jax", variant="nvidia").step == 12
    with pytest.raises(CheckpointError, match=r"'block0/kernel' took 11 and .* 12.*'optax'"):
        write(of("optax"), tmp_path / "other", "jax")


# -- files that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "jax"])
def test_truncated_files_are_refused(tmp_path, kind):
    path = tmp_path / "state"
    write(made(), path, kind)
    whole = path.read_bytes()
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="it is damaged") as error:
            read(path, kind)
        assert str(path) in str(error.value)


def test_neutral_files_with_other_content_are_refused(tmp_path):
    path = tmp_path / "state"

    def wrong(tensors, metadata, message):
        path.write_bytes(safetensors.numpy.save(tensors, metadata))
        with pytest.raises(CheckpointError, match=message):
            read(path, "safetensors")

    write(small(), path, "safetensors")
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    zeros = np.zeros(2, np.float32)
    wrong({"model.weight": zeros}, {"format": "pt"}, "'model.weight' of dtype F32 is not from")
    wrong({"moment/w": zeros}, metadata, "there is no 'v/w'")
    wrong({"moment/w": zeros, "v/w": zeros}, {"format": "pt"}, "have format novograd-checkpoint")
    wrong({"moment/w": zeros, "v/w": zeros}, metadata | {"version": "2"}, "and version 1, got")
    wrong({"moment/x": zeros, "v/x": zeros}, metadata, "the weight 'x' is in no group")
    wrong({"moment/w": zeros, "v/w": zeros}, metadata | {"groups": "[1]"}, "metadata are wrong")
    wrong({"moment/w": zeros, "v/w": zeros}, metadata | {"variant": '"adam"'}, "got 'adam'")


def test_files_of_jax_with_other_content_are_refused(tmp_path):
    path = tmp_path / "state"

    def array(shape):
        content = (shape, "float32", np.zeros(shape, np.float32).tobytes())
        return msgpack.ExtType(1, msgpack.packb(content))

    def wrong(kind, content, message):
        path.write_bytes(msgpack.packb(content))
        with pytest.raises(CheckpointError, match=message):
            read(path, kind)

    adam = {"0": {"count": array(()), "mu": {"w": array((2,))}, "nu": {"w": array((2,))}}}
    wrong("optax", adam, r"0: 'w' has nu of shape \(2,\), so it is not of optax")
    wrong("jax", adam, "no state of jax, which is one of count, mu, nu, nu_max")
    wrong("optax", {"0": {"count": array(()), "mu": {"w": array((2,))}, "nu": {}}}, "'w' has no nu")
    wrong("optax", [1], "it contains list")
    wrong("optax", {"x": msgpack.ExtType(9, b"")}, "extension type 9 is not one of Flax")
    twice = {"count": array(()), "mu": {"w": array((2,))}, "nu": {"w": array(())}}
    wrong("optax", {"0": twice, "1": twice}, "more than one state of 'w'")


def test_values_that_no_target_can_hold_are_refused(tmp_path):
    path = tmp_path / "state"
    write(small(step=3), path, "safetensors")
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    tensors = {"moment/w": np.zeros(2, np.float32), "v/w": np.float32(1)}

    def wrong(message, tensors=tensors, **more):
        arrays = {name: np.asarray(x) for name, x in tensors.items()}
        path.write_bytes(safetensors.numpy.save(arrays, metadata | more))
        with pytest.raises(CheckpointError, match=message) as error:
            read(path, "safetensors")
        assert str(path) in str(error.value)

    names, variant = '"names": ["w"]', variants.as_config(MINE)
    lr = f'[{{{names}, "hyperparameters": {{"lr": "fast"}}}}]'
    wrong("lr must be a number, got 'fast'", groups=lr)
    wrong("1 is not a valid name", groups='[{"names": [1], "hyperparameters": {}}]')
    wrong(r"'\\ud800' is not a valid", groups='[{"names": ["\\ud800"], "hyperparameters": {}}]')
    wrong(r"\[1\] is not a valid name", variant=json.dumps(variant | {"name": [1]}))
    wrong("metadata are wrong", groups=f'[{{{names}, "hyperparameters": {{}}, "others": 3}}]')
    wrong("not laid out as expected: RecursionError", groups="[" * 100_000)
    wrong("step of 'w' must be in .*, got -1", tensors | {"step/w": np.int64(-1)})
    wrong("moment of 'w' has dtype int64", tensors | {"moment/w": np.zeros(2, np.int64)})
    wrong("v of 'w' has dtype complex64", tensors | {"v/w": np.complex64(1)})


def test_a_step_beyond_the_counter_of_jax_is_refused(tmp_path):
    write(small(step=2**40), tmp_path / "state", "safetensors")
    assert read(tmp_path / "state", "safetensors").step == 2**40
    with pytest.raises(CheckpointError, match="JAX counts up to 2147483647 steps"):
        write(small(step=2**40), tmp_path / "other", "jax")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_neutral_file_keeps_other_content_of_groups(tmp_path):
    others = {"initial_lr": 0.5, "name": "first", "milestones": [1, None, {"a": True}]}
    checkpoint = replace(small(), groups=(Group(("w",), Hyperparameters(lr=0.5), others),))
    write(checkpoint, tmp_path / "state", "safetensors")
    assert read(tmp_path / "state", "safetensors").groups == checkpoint.groups
    assert lost(checkpoint, "safetensors") == []
    assert lost(checkpoint, "tensorflow") == [*others]


def test_a_state_of_jax_is_read_from_a_key(tmp_path):
    path = tmp_path / "state"
    write(small(), path, "jax")
    state = msgpack.unpackb(path.read_bytes(), raw=False)
    path.write_bytes(msgpack.packb({"first": {"opt": state}, "second": {"opt": state}}))
    with pytest.raises(CheckpointError, match="more than one state of 'w'"):
        read(path, "jax")
    assert read(path, "jax", key="second").entries["w"].v == 25
    assert read(path, "jax", key="first.opt").entries["w"].v == 25
    with pytest.raises(CheckpointError, match=r"no key 'first\.x': no 'x'; it has opt"):
        read(path, "jax", key="first.x")
    with pytest.raises(CheckpointError, match=r"'first\.opt\.mu' has no state of jax.*; it has w"):
        read(path, "jax", key="first.opt.mu")


def test_files_of_jax_with_deep_nesting_or_other_types_are_refused(tmp_path):
    path = tmp_path / "state"

    def array(value):
        value = np.asarray(value)
        return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))

    def wrong(content):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"laid out|damaged|has dtype|step|has no state"):
            read(path, "jax")

    wrong(b"\x81\xa1a" * 900 + b"\x80")
    wrong(b"\x81\xa1a" * 100_000 + b"\x80")
    for count, mu, nu in (
        (np.float64("inf"), [1.0], 1.0),
        (-1, [1.0], 1.0),
        ([1, 2], [1.0], 1.0),
        (1, ["text"], 1.0),
        (1, [1j], 1j),
        (1, [1], 1.0),
    ):
        state = {"count": count, "mu": {"w": mu}, "nu": {"w": nu}, "nu_max": {}}
        state = {
            key: {"w": array(x["w"])} if x and key != "count" else x for key, x in state.items()
        }
        wrong(msgpack.packb(state | {"count": array(count)}))
    wrong(msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))}))


def test_missing_weights_are_refused(tmp_path):
    write(made(weights=False), tmp_path / "state", "jax")
    with pytest.raises(CheckpointError, match="the file has no weight 'block0/kernel'"):
        read(tmp_path / "state", "jax", weights=True)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"kind must be one of torch, jax, .* got 'adam'"):
        read(tmp_path, "adam")
    with pytest.raises(ValueError, match=r"kind must be one of torch, jax, .* got 'timm'"):
        write(small(), tmp_path / "state", "timm")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing", "jax")


# -- existing files ------------------------------------------------------------------------------


def test_a_target_is_replaced_only_with_force_and_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "state"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="state already exists"):
        write(small(), path, "safetensors")
    monkeypatch.setattr(results.Path, "replace", None)  # the disk is full
    with pytest.raises(TypeError):
        write(small(), path, "safetensors", force=True)
    assert path.read_bytes() == b"mine"
    monkeypatch.undo()
    write(small(), path, "safetensors", force=True)
    assert read(path, "safetensors").entries["w"].v == 25
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["safetensors", "jax"])
def test_damaged_bytes_raise_only_a_checkpoint_error(tmp_path, kind):
    path, chance = tmp_path / "state", random.Random(0)
    write(made(dtypes=(np.float32,)), path, kind)
    whole, refused = path.read_bytes(), 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            read(path, kind, weights=True)
        except CheckpointError:
            refused += 1
    assert 100 < refused < 500
