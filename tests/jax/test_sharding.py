"""Leaves sharded over eight devices: every device uses the norm of the whole layer."""

import pickle
import socket

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from novograd.jax import NovogradState, novograd
from novograd.layers import Rows, Split, Stacked
from tests.helpers import programs, xla
from tests.helpers.jax import assert_close, made_up, train
from tests.helpers.oracle import trained
from tests.helpers.parameters import crossed, some

SHAPES = {"matrix": (8, 4), "vector": (8,)}
MESHES = {
    "1-D": ((8,), ("x",), {"matrix": P("x"), "vector": P("x")}),
    "2-D": ((4, 2), ("x", "y"), {"matrix": P("x", "y"), "vector": P(("x", "y"))}),
}
KINDS = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}
HYPER = {"weight_decay": 0.1, "nesterov": True}


def mesh_of(name, kind=AxisType.Auto):
    shape, axes, specs = MESHES[name]
    return jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes)), axes, specs


def expected(weights, gradients):
    return {k: trained(w, [g[k] for g in gradients], **HYPER) for k, w in weights.items()}


def assert_equal_to_whole_leaves(w, state, weights, gradients):
    for key, values in expected(weights, gradients).items():
        for actual, value in zip((w[key], state.mu[key], state.nu[key]), values, strict=True):
            assert_close(actual, value)


def shard_map_steps(optimizer, name, weights, gradients):
    """Takes all steps inside shard_map, where each device sees only its pieces."""
    mesh, _, specs = mesh_of(name)
    state_specs = NovogradState(P(), specs, {key: P() for key in specs})
    return jax.jit(
        jax.shard_map(
            lambda w, g: train(optimizer, w, g, jit=False),
            mesh=mesh,
            in_specs=(specs, [specs] * len(gradients)),
            out_specs=(specs, state_specs),
        )
    )(weights, gradients)


@pytest.mark.parametrize("name", MESHES)
def test_shard_map_equals_training_of_whole_leaves(name):
    weights, gradients = made_up(SHAPES)
    _, axes, _ = mesh_of(name)
    optimizer = novograd(0.1, axis_name=axes if len(axes) > 1 else axes[0], **HYPER)
    w, state = shard_map_steps(optimizer, name, weights, gradients)
    assert_equal_to_whole_leaves(w, state, weights, gradients)


def test_shard_map_needs_one_collective_for_all_leaves():
    weights, gradients = made_up(SHAPES, steps=1)
    mesh, _, specs = mesh_of("1-D")
    optimizer = novograd(0.1, axis_name="x")
    text = (
        jax.jit(
            jax.shard_map(
                lambda w, g: train(optimizer, w, g, jit=False)[0],
                mesh=mesh,
                in_specs=(specs, [specs]),
                out_specs=specs,
            )
        )
        .lower(weights, gradients)
        .compile()
        .as_text()
    )
    assert text.count(" all-reduce(") == 1


def test_every_device_in_shard_map_skips_a_nonfinite_leaf():
    weights, gradients = made_up(SHAPES)
    spoiled = gradients[2] | {"vector": np.array([*[1] * 7, np.nan], np.float32)}
    optimizer = novograd(0.1, axis_name="x", skip_nonfinite=True, **HYPER)
    w, _ = shard_map_steps(optimizer, "1-D", weights, [*gradients[:2], spoiled, *gradients[3:]])
    kept = [g["vector"] for g in gradients[:2] + gradients[3:]]
    # Seven devices hold only finite numbers and must skip their pieces as well.
    assert_close(w["vector"], trained(weights["vector"], kept, **HYPER)[0])
    assert_close(w["matrix"], expected(weights, gradients)["matrix"][0])


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_pmap_equals_training_of_whole_leaves():
    weights, gradients = made_up(SHAPES)
    optimizer = novograd(0.1, axis_name="devices", **HYPER)

    def pieces(tree):
        return jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), tree)

    w, state = jax.pmap(lambda w, g: train(optimizer, w, g, jit=False), axis_name="devices")(
        pieces(weights), [pieces(g) for g in gradients]
    )
    whole = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), (w, state.mu))
    for key, (weight, moment, norm) in expected(weights, gradients).items():
        assert_close(whole[0][key], weight)
        assert_close(whole[1][key], moment)
        assert_close(state.nu[key], np.full(8, norm))


@crossed("kind", KINDS, "init", {"jitted init": jax.jit, "init": lambda f: f})
@pytest.mark.parametrize("name", MESHES)
def test_jit_of_sharded_arrays_equals_training_of_whole_leaves(name, init, kind):
    weights, gradients = made_up(SHAPES)
    mesh, _, specs = mesh_of(name, kind)
    shardings = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    optimizer = novograd(0.1, **HYPER)

    @jax.jit
    def step(gradient, w, state):
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state

    with jax.set_mesh(mesh):
        w = jax.device_put(weights, shardings)
        state = init(optimizer.init)(w)
        for gradient in gradients:
            w, state = step(jax.device_put(gradient, shardings), w, state)
            for key, sharding in shardings.items():
                assert w[key].sharding.is_equivalent_to(sharding, w[key].ndim)
                assert state.mu[key].sharding.is_equivalent_to(sharding, w[key].ndim)
                assert state.nu[key].sharding.is_fully_replicated
            assert state.count.sharding.is_fully_replicated
    assert_equal_to_whole_leaves(w, state, weights, gradients)


def test_init_shards_the_momentum_buffer_like_the_weights():
    mesh, _, specs = mesh_of("1-D")
    w = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, specs["matrix"]))
    assert novograd(0.1).init(w).mu.sharding == w.sharding


# -- layers that are not leaves -------------------------------------------------------------------

LAYERED = {
    "whole": ((8, 16), None),
    "stacked": ((8, 16, 3), Stacked()),
    "split": ((16, 8), Split((3, 9, 0, 4))),
    "split last": ((8, 16), Split((10, 6), axis=-1)),
    "rows": ((8, 16), Rows()),
    "rms": ((16, 8), Rows(axes=0, scale="rms")),
    "bias": ((16,), Rows()),
}
LAYERS = {key: layers for key, (_, layers) in LAYERED.items()}
CUTS = {
    "first axis": ((8,), ("x",), P("x")),
    "second axis": ((8,), ("x",), P(None, "x")),
    "both axes": ((4, 2), ("x", "y"), P("x", "y")),
    "the first axis twice": ((4, 2), ("x", "y"), P(("x", "y"))),
}


def layered(cut, kind=AxisType.Auto, steps=6):
    """Returns a mesh, the spec of each leaf, weights and gradients."""
    shape, axes, spec = CUTS[cut]
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    weights, gradients = made_up({key: shape for key, (shape, _) in LAYERED.items()}, steps)
    specs = {key: P(*spec[: weights[key].ndim]) for key in weights}
    return mesh, specs, weights, gradients


def on_one_device(weights, gradients, layers=LAYERS):
    """Returns weights, momentum buffers and second moments after training on one device."""
    optimizer = novograd(0.1, **HYPER, layers=layers, fused=False)
    w, state = train(optimizer, weights, gradients)
    return w, state.mu, state.nu


def spec_of_nu(key, spec, shape):
    """Returns the spec of a second moment: only axes on which each index is a layer are sharded."""
    cut = [*spec, *[None] * (len(shape) - len(spec))] if shape else []
    is_split = isinstance(LAYERS[key], Split)
    return P(*(None if size == 1 or is_split else x for x, size in zip(cut, shape, strict=True)))


def assert_same(actual, expected):
    jax.tree.map(assert_close, actual, expected)


# Each of these tests compiles for seconds. The other cuts are alike.
some_cuts = pytest.mark.parametrize("cut", some(CUTS, kept=["first axis", "both axes"]))


@some_cuts
@pytest.mark.parametrize("kind", some(KINDS.values(), kept=[AxisType.Explicit]))
def test_layers_under_jit_equal_training_on_one_device(cut, kind):
    mesh, specs, weights, gradients = layered(cut, kind)
    shardings = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    optimizer = novograd(0.1, **HYPER, layers=LAYERS)
    traced = []

    @jax.jit
    def step(gradient, w, state):
        traced.append(1)
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state

    with jax.set_mesh(mesh):
        w = jax.device_put(weights, shardings)
        state = optimizer.init(w)
        for gradient in [None, *gradients]:
            if gradient is not None:
                w, state = step(jax.device_put(gradient, shardings), w, state)
            for key, v in state.nu.items():
                sharding = NamedSharding(mesh, spec_of_nu(key, specs[key], v.shape))
                if LAYERS[key] is not None:
                    assert v.sharding.is_equivalent_to(sharding, v.ndim), (key, v.sharding)
                assert w[key].sharding.is_equivalent_to(shardings[key], w[key].ndim)
                assert state.mu[key].sharding.is_equivalent_to(shardings[key], w[key].ndim)
    assert len(traced) == 1
    assert_same((w, state.mu, state.nu), on_one_device(weights, gradients))


@some_cuts
def test_layers_under_jit_move_no_pieces_between_devices(cut):
    mesh, specs, weights, _ = layered(cut, steps=0)
    w = jax.device_put(weights, {key: NamedSharding(mesh, spec) for key, spec in specs.items()})
    optimizer = novograd(0.1, **HYPER, layers=LAYERS)
    text = jax.jit(optimizer.step).lower(w, optimizer.init(w), w).compile().as_text()
    assert " all-reduce(" in text
    for moving in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {moving}" not in text


@some_cuts
@pytest.mark.parametrize("init", some(["whole", "pieces"], kept=["pieces"]))
def test_layers_in_shard_map_equal_training_on_one_device(cut, init):
    mesh, specs, weights, gradients = layered(cut)
    optimizer = novograd(
        0.1, **HYPER, layers=LAYERS, axis_name=lambda path, leaf: specs[path[0].key]
    )
    expected = on_one_device(weights, gradients)
    nu = {key: spec_of_nu(key, specs[key], v.shape) for key, v in expected[2].items()}
    state_specs = NovogradState(P(), specs, nu)

    def mapped(function, in_specs, out_specs):
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))

    start = optimizer.init
    state = mapped(start, (specs,), state_specs)(weights) if init == "pieces" else start(weights)

    def steps(w, state, gradients):
        for gradient in gradients:
            w, state = optimizer.step(w, state, gradient)
        return w, state

    in_specs = (specs, state_specs, [specs] * len(gradients))
    step = mapped(steps, in_specs, (specs, state_specs))
    w, state = step(weights, state, gradients)
    assert_same((w, state.mu, state.nu), expected)
    # There is one collective for all leaves that are sharded over the same axes.
    text = mapped(steps, (*in_specs[:2], [specs]), (specs, state_specs))
    text = text.lower(weights, state, gradients[:1]).compile().as_text()
    assert text.count(" all-reduce(") == {"both axes": 3}.get(cut, 1)


def test_leaves_may_be_sharded_differently_in_shard_map():
    """Each device holds whole experts, a piece of a matrix, pieces of rows, and a copy."""
    shapes = {"experts": (8, 3, 4), "matrix": (8, 4), "rows": (5, 16), "copied": (3,)}
    weights, gradients = made_up(shapes)
    layers = {"experts": Stacked(), "matrix": None, "rows": Rows(0, "rms"), "copied": None}
    names = {"experts": None, "matrix": "x", "rows": ["x"], "copied": ()}
    specs = {"experts": P("x"), "matrix": P("x"), "rows": P(None, "x"), "copied": P()}
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def names_of(path, leaf):
        return names[path[0].key]

    optimizer = novograd(0.1, **HYPER, layers=layers, axis_name=names_of)
    w = jax.jit(
        jax.shard_map(
            lambda w, g: train(optimizer, w, g, jit=False)[0],
            mesh=mesh,
            in_specs=(specs, [specs] * len(gradients)),
            out_specs=specs,
        )
    )(weights, gradients)
    assert_same(w, on_one_device(weights, gradients, layers)[0])


def test_shard_map_skips_only_the_nonfinite_expert():
    weights, (first, second) = made_up({"experts": (8, 3, 4)}, steps=2)
    optimizer = novograd(0.1, layers=Stacked(), axis_name=lambda *_: None, skip_nonfinite=True)
    second["experts"][5, 0, 0] = np.inf
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    before, after = (
        jax.jit(
            jax.shard_map(
                lambda w, g: train(optimizer, w, g, jit=False)[0],
                mesh=mesh,
                in_specs=P("x"),
                out_specs=P("x"),
            )
        )(weights, gradients)["experts"]
        for gradients in ([first], [first, second])
    )
    assert [np.array_equal(*x) for x in zip(before, after, strict=True)] == [
        i == 5 for i in range(8)
    ]


def pieces(function, spec, *arrays):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=P())(*arrays)


def test_axis_names_are_refused_for_layers_of_single_elements():
    optimizer = novograd(0.1, layers=Rows(), axis_name="x")
    with pytest.raises(ValueError, match=r"^axis_name must be None .* single elements, got 'x'"):
        pieces(lambda w: optimizer.init(w).nu, P("x"), jnp.ones(16))


def test_a_spec_that_does_not_fit_is_refused():
    optimizer = novograd(0.1, axis_name=lambda *_: P(None, "x"))
    with pytest.raises(ValueError, match=r"^axis_name must not have .* shape \(2,\), got P.*'x'\)"):
        pieces(lambda w: optimizer.init(w).nu, P("x"), jnp.ones(16))


def test_a_step_outside_the_mesh_is_refused():
    optimizer = novograd(0.1, axis_name="x")
    w = jnp.ones(4)
    with pytest.raises(NameError, match="x"):
        optimizer.update(w, optimizer.init(w))


# -- checkpoints of orbax -------------------------------------------------------------------------


def test_a_sharded_state_is_restored_with_the_shardings_of_the_template(tmp_path):
    mesh, _, specs = mesh_of("1-D", AxisType.Explicit)
    weights, gradients = made_up(SHAPES)
    optimizer = novograd(0.1, variant="rows")
    placed = jax.device_put(weights, {k: NamedSharding(mesh, spec) for k, spec in specs.items()})
    _, saved = optimizer.update(gradients[0], optimizer.init(placed), placed)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave(saved))
        manager.wait_until_finished()
        for template in (saved, optimizer.init(jax.device_put(weights, jax.devices()[0]))):
            restored = manager.restore(1, args=ocp.args.StandardRestore(template))
            jax.tree.map(np.testing.assert_array_equal, restored, saved)
            same = jax.tree.map(lambda x, y: x.sharding == y.sharding, restored, template)
            assert jax.tree.all(same)


# -- real processes -------------------------------------------------------------------------------


def test_two_processes_equal_training_on_one_device(tmp_path):
    """Each process has half of the devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    devices = {"XLA_FLAGS": xla.devices(4)}
    program = "tests.jax.one_of_two_processes"
    processes = [programs.start(program, address, rank, tmp_path, **devices) for rank in range(2)]
    for process in processes:
        programs.finish(process)
    _, _, weights, gradients = layered("both axes")
    expected = on_one_device(weights, gradients)
    for rank in range(2):
        assert_same(pickle.loads((tmp_path / f"{rank}").read_bytes()), expected)
