"""Momentum buffers in 8 bits: the same random bits everywhere, in all transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from novograd import quantized, reference
from novograd.jax import (
    NovogradState,
    QuantizedNovogradState,
    layer_statistics,
    moments,
    novograd,
)
from novograd.jax.layout import LeafLayout
from novograd.layers import Rows, Split, Stacked, Whole
from tests.helpers.parameters import some

SHAPES = {"matrix": (32, 2048), "kernel": (64, 16, 3, 3), "bias": (5000,), "small": (32, 16)}
# Kernels of Flax, whose last axis has the outputs.
COLUMNS = SHAPES | {"kernel": (3, 3, 40, 64)}
make = functools.partial(novograd, 0.25, mu_dtype=jnp.int8, weight_decay=0.125)


def exact(shapes, seed):
    """Returns a tree of whole numbers: their squared norms have no rounding error, in any order."""
    random = np.random.default_rng(seed)
    draw = functools.partial(random.integers, -3, 4)
    return {name: jnp.asarray(draw(shape), jnp.float32) for name, shape in shapes.items()}


def trained(optimizer, weights, gradients, step=None):
    step, state = step or jax.jit(optimizer.step), optimizer.init(weights)
    for gradient in gradients:
        weights, state = step(weights, state, gradient)
    return weights, state


def assert_same_bits(actual, expected):
    """Compares buffers of two programs. XLA may round the last bit of a sum in another way.

    So an element in 100,000 may be rounded to its other neighbour. With other random bits, every
    third element would be.
    """
    for name in ("matrix", "kernel"):
        apart = np.abs(np.int32(actual.mu[name]) - np.int32(expected.mu[name]))
        assert apart.max() <= 1
        assert apart.mean() < 1e-3
        np.testing.assert_allclose(actual.mu_scale[name], expected.mu_scale[name], rtol=1e-6)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture(scope="module")
def expected():
    """Returns the weights and the state after training of whole leaves on one device."""
    return trained(make(), exact(SHAPES, 0), [exact(SHAPES, seed) for seed in (1, 2, 3)])


# -- the state ------------------------------------------------------------------------------------


def test_the_state_has_the_documented_shapes_and_dtypes():
    weights = exact(SHAPES, 0) | {
        "pairs": jnp.ones((64, 200), jnp.complex64),
        "table": np.int8([1]),
    }
    state = make().init(weights)
    assert QuantizedNovogradState._fields == (*NovogradState._fields, "mu_scale")
    assert jax.tree.map(lambda x: (x.shape, x.dtype.name), (state.mu, state.mu_scale)) == (
        {
            "matrix": ((32, 2048), "int8"),
            "kernel": ((64, 16, 3, 3), "int8"),
            "bias": ((5000,), "float32"),
            "small": ((32, 16), "float32"),
            "pairs": ((64, 200, 2), "int8"),
            "table": ((1,), "int8"),  # the dtype of weights that are not trained
        },
        {
            "matrix": ((32, 16), "float32"),
            "kernel": ((64, 2), "float32"),
            "bias": ((), "float32"),
            "small": ((), "float32"),
            "pairs": ((64, 4), "float32"),
            "table": ((), "float32"),
        },
    )
    for dtype in (None, jnp.float32, jnp.bfloat16):
        assert type(novograd(0.1, mu_dtype=dtype).init(weights)) is NovogradState


def test_the_buffer_is_the_float32_buffer_up_to_its_scale(expected):
    weights, gradients = exact(SHAPES, 0), [exact(SHAPES, seed) for seed in (1, 2, 3)]
    _, state = trained(make(mu_dtype=None), weights, gradients)
    for name in ("matrix", "kernel"):
        wide = reference.dequantised(expected[1].mu[name], expected[1].mu_scale[name])
        errors = np.abs(wide - np.asarray(state.mu[name], np.float64))
        # Each of three steps rounds by less than one scale.
        assert errors.max() < 3 * float(expected[1].mu_scale[name].max())
        assert errors.max() > 0
    np.testing.assert_allclose(expected[1].mu["bias"], state.mu["bias"], rtol=1e-6)


def test_a_state_with_blocks_of_another_size_is_refused(expected):
    weights, state = expected
    wrong = state._replace(mu_scale=state.mu_scale | {"matrix": jnp.ones((32, 32))})
    message = r"^state.mu\['matrix'\] must be int8 of shape \(32, 2048\) and have state.mu_scale of"
    with pytest.raises(ValueError, match=rf"{message} shape \(32, 16\), got int8 .*\(32, 32\)$"):
        make().step(weights, wrong, weights)


# -- the kernels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "layers"),
    [
        ("float32", None),
        ("bfloat16", None),
        ("float16", None),
        ("complex64", None),
        ("float32", Rows(axes=-1)),
        ("float16", Rows(axes=-1)),
    ],
)
@pytest.mark.parametrize("applies", [True, False], ids=["step", "update"])
def test_the_kernels_round_like_the_rule(dtype, layers, applies):
    shapes = SHAPES if layers is None else COLUMNS
    weights = {name: jnp.asarray(x, dtype) for name, x in exact(shapes, 0).items()}
    gradients = [
        jax.tree.map(lambda x, i=i: (i * x).astype(dtype), exact(shapes, i)) for i in (1, 2)
    ]
    if dtype == "complex64":
        weights, *gradients = jax.tree.map(lambda x: x * (1 + 2j), (weights, *gradients))
    results = []
    for fused in (True, False):
        optimizer = make(fused=fused, skip_nonfinite=True, layers=layers or Whole())

        def updated(weights, state, gradient, optimizer=optimizer):
            updates, state = optimizer.update(gradient, state, weights)
            return optax.apply_updates(weights, updates), state

        step = None if applies else jax.jit(updated)
        results.append(trained(optimizer, weights, gradients, step))
    (actual, state), (expected, other) = results
    assert_same_bits(state, other)
    # The two round the weights in different places: a few units of the dtype after two steps.
    tolerance = {"bfloat16": 2e-2, "float16": 2e-3}.get(dtype, 1e-5)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert x.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(x, complex), np.asarray(y, complex), rtol=tolerance, atol=tolerance
        )


def test_the_kernels_are_the_default(expected):
    weights, state = expected
    lowered = jax.jit(make().step).lower(weights, state, weights).as_text()
    assert lowered.count("custom_call @novograd_step") == 1
    assert "tensor<32x2048xi8>" in lowered


def test_a_layer_that_skips_a_step_keeps_its_weights_in_shared_blocks():
    weights, gradient = exact(COLUMNS, 0), exact(COLUMNS, 1)
    gradient["matrix"] = gradient["matrix"].at[3, :200].set(jnp.inf)
    results = [
        trained(make(fused=fused, skip_nonfinite=True, layers=Rows(axes=-1)), weights, [gradient])
        for fused in (True, False)
    ]
    (actual, state), (expected, other) = results
    assert_same_bits(state, other)
    np.testing.assert_array_equal(actual["matrix"][:, :200], weights["matrix"][:, :200])
    np.testing.assert_allclose(actual["matrix"], expected["matrix"], rtol=1e-5, atol=1e-5)


def test_the_kernels_need_rows_with_all_layers_or_layers_with_whole_rows():
    weights = {"matrix": jnp.ones((64, 8, 16))}
    optimizer = make(fused=True, layers=Stacked(axes=(0, 1)))
    message = r"^fused=True, but there is no kernel for these layers, which share blocks"
    with pytest.raises(RuntimeError, match=message):
        optimizer.step(weights, optimizer.init(weights), weights)
    default = make(layers=Stacked(axes=(0, 1)))
    default.step(weights, default.init(weights), weights)


# -- random bits ----------------------------------------------------------------------------------


def test_positions_in_large_tensors_have_both_words():
    whole = (200, 2**20 + 3, 30011)
    index = [np.uint32(i) for i in np.random.default_rng(0).integers(0, whole, (50, 3)).T]
    low, high, odd = map(np.asarray, moments.pair_of(list(map(jnp.asarray, index)), whole))
    for i, (a, b, c) in enumerate(zip(*index, strict=True)):
        position = (int(a) * whole[1] + int(b)) * whole[2] + int(c)
        words = int(low[i]) % 2**32, int(high[i]), int(odd[i])
        assert words == (position // 2 % 2**32, position // 2 >> 32, position % 2)
    assert high.max() > 0


@pytest.mark.parametrize(
    "shape", some([(33, 131), (64, 16, 3, 3), (40, 300, 2)], kept=[(33, 131), (64, 16, 3, 3)])
)
def test_the_rounding_has_the_bits_of_numpy(shape):
    moment = np.random.default_rng(0).standard_normal(shape, np.float32)
    scales = quantized.scale_shape(shape)
    q, found = moments.quantised(
        moment, np.zeros(shape, np.int8), jnp.zeros(scales), 7, LeafLayout(whole=shape)
    )
    flat, index = moment.ravel(), np.arange(moment.size)
    for block, positions in enumerate(reference.blocks(shape)):
        scale = np.asarray(found).ravel()[block]
        np.testing.assert_allclose(scale, np.abs(flat[positions]).max() / 127, rtol=2e-7)
        exact = flat[positions] / scale + reference.uniform(
            7, index[positions], reference.MOMENT_SEED
        )
        # float32 has a relative error of 2^-24, and the numbers are up to 128.
        least, most = (np.floor(exact + x).clip(-127, 127) for x in (-3e-5, 3e-5))
        stored = np.asarray(q).ravel()[positions]
        assert np.all((stored == least) | (stored == most))


def test_small_steps_add_up():
    """A gradient that is smaller than half a scale moves the buffer as far as in float32."""
    large, gradient = np.zeros((64, 64), np.float32), np.full((64, 64), 1e-3, np.float32)
    large[:, 0] = gradient[:, 0] = 1.0
    weights = [
        trained(novograd(0.1, mu_dtype=dtype), large, [gradient] * 50)[0][:, 1:].mean()
        for dtype in (None, jnp.int8)
    ]
    # The mean of 4,032 elements: the standard error is below 2 % of its value.
    np.testing.assert_allclose(*weights, rtol=0.1)


# -- sharding -------------------------------------------------------------------------------------

MESHES = {
    "rows": ((8,), ("x",), P("x")),
    "columns": ((8,), ("x",), P(None, "x")),
    "both": ((4, 2), ("x", "y"), P("x", "y")),
}


def mesh_and_specs(name, kind=AxisType.Auto):
    shape, axes, spec = MESHES[name]
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    others = dict.fromkeys(SHAPES, P()) | {"kernel": P("x")}
    return mesh, others | {"matrix": spec}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", some(MESHES, kept=["both"]))
def test_sharded_arrays_under_jit_get_the_same_bits(name, kind, expected):
    mesh, specs = mesh_and_specs(name, kind)
    shardings = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    with jax.set_mesh(mesh):
        weights, *gradients = (jax.device_put(exact(SHAPES, i), shardings) for i in range(4))
        w, state = trained(make(), weights, gradients)
        for key, sharding in shardings.items():
            assert state.mu[key].sharding.is_equivalent_to(sharding, w[key].ndim)
    assert_same_bits(state, expected[1])


@pytest.mark.parametrize("name", some(MESHES, kept=["both"]))
def test_pieces_in_shard_map_get_the_same_bits(name, expected):
    mesh, specs = mesh_and_specs(name)
    optimizer = make(axis_name=lambda path, leaf: specs[path[0].key])
    scales = {key: specs[key] if key in ("matrix", "kernel") else P() for key in SHAPES}
    nu = dict.fromkeys(SHAPES, P())
    states = QuantizedNovogradState(P(), specs, nu, None, scales)
    mapped = functools.partial(jax.shard_map, mesh=mesh)
    step = mapped(optimizer.step, in_specs=(specs, states, specs), out_specs=(specs, states))
    start = jax.jit(mapped(optimizer.init, in_specs=(specs,), out_specs=states))
    weights, *gradients = (exact(SHAPES, i) for i in range(4))
    state, step = start(weights), jax.jit(step)
    for gradient in gradients:
        weights, state = step(weights, state, gradient)
    assert_same_bits(state, expected[1])


@pytest.mark.parametrize(
    ("shape", "spec"), [((64, 512), P(None, "x")), ((16, 64, 8, 8), P(None, None, "x"))]
)
def test_a_piece_with_a_part_of_a_block_is_refused(shape, spec):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    optimizer = make(axis_name=lambda *_: spec)
    with pytest.raises(
        ValueError, match=r"^params\['w'\]: mu_dtype=int8 needs .* multiples of 128"
    ):
        jax.shard_map(
            lambda w: optimizer.init({"w": w}).nu, mesh=mesh, in_specs=spec, out_specs=P()
        )(jnp.ones(shape))


# -- transformations of JAX and wrappers of optax -------------------------------------------------


def test_scan_and_donation_give_the_same_bits(expected):
    optimizer, weights = make(), exact(SHAPES, 0)
    gradients = jax.tree.map(lambda *x: jnp.stack(x), *(exact(SHAPES, i) for i in (1, 2, 3)))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(weights, state, gradients):
        take = lambda carry, gradient: (optimizer.step(*carry, gradient), None)  # noqa: E731
        return jax.lax.scan(take, (weights, state), gradients)[0]

    _, state = run(weights, optimizer.init(weights), gradients)
    assert_same_bits(state, expected[1])


def test_vmap_rounds_each_like_a_whole_leaf():
    weights, gradient = exact({"w": (2, 64, 64)}, 0)["w"], exact({"w": (2, 64, 64)}, 1)["w"]
    optimizer = make()
    _, together = jax.jit(jax.vmap(lambda w, g: optimizer.step(w, optimizer.init(w), g)))(
        weights, gradient
    )
    for i in range(2):
        _, alone = trained(optimizer, weights[i], [gradient[i]])
        np.testing.assert_array_equal(together.mu[i], alone.mu)


def test_wrappers_of_optax_give_the_same_bits(expected):
    injected = optax.inject_hyperparams(novograd)(0.25, mu_dtype="int8", weight_decay=0.125)
    labels = {name: "b" if name == "kernel" else "a" for name in SHAPES}
    wrapped = {
        "injected": injected,
        "chain": optax.chain(optax.identity(), make()),
        "labels": optax.multi_transform({"a": make(), "b": make()}, labels),
    }
    for name, optimizer in wrapped.items():
        state, w, update = optimizer.init(exact(SHAPES, 0)), exact(SHAPES, 0), optimizer.update
        for seed in (1, 2, 3):
            updates, state = jax.jit(update)(exact(SHAPES, seed), state, w)
            w = optax.apply_updates(w, updates)
        int8 = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int8]
        assert sorted(x.shape for x in int8) == [(32, 2048), (64, 16, 3, 3)], name
        for key in ("matrix", "kernel"):
            np.testing.assert_allclose(w[key], expected[0][key], rtol=1e-5, atol=1e-6)


def test_tree_map_params_reaches_buffers_and_scales():
    optimizer, weights = make(), exact(SHAPES, 0)
    names = {name: name for name in SHAPES}
    state = optax.tree_map_params(optimizer, lambda _, name: name, optimizer.init(weights), names)
    assert (state.mu, state.nu, state.mu_scale) == (names, names, names)


def test_orbax_restores_the_state(tmp_path, expected):
    with orbax.checkpoint.StandardCheckpointer() as files:
        files.save(tmp_path / "state", expected[1])
        files.wait_until_finished()
        assert_equal(files.restore(tmp_path / "state", make().init(expected[0])), expected[1])


# -- leaves that do not change, and layers --------------------------------------------------------


def test_a_leaf_without_a_gradient_keeps_every_bit():
    """Also a complex one, whose buffer does not show the shape of its layers."""
    weights = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64), jnp.complex64)}
    optimizer = make(layers=Rows(), weight_decay=0.0)
    _, state = trained(optimizer, weights, [weights])
    _, after = optimizer.update({"a": None, "b": None}, state)
    assert_equal((after.mu, after.mu_scale, after.nu), (state.mu, state.mu_scale, state.nu))


def test_a_skipped_layer_keeps_every_bit_and_others_change():
    weights, gradient = exact(SHAPES, 0), exact(SHAPES, 1)
    optimizer = make(layers=Rows(0), skip_nonfinite=True)
    _, state = trained(optimizer, weights, [gradient])
    spoiled = gradient | {"matrix": gradient["matrix"].at[3, 5].set(jnp.inf)}
    _, after = jax.jit(optimizer.step)(weights, state, spoiled)
    kept = [
        np.array_equal(*rows) for rows in zip(after.mu["matrix"], state.mu["matrix"], strict=True)
    ]
    assert [i for i, same in enumerate(kept) if same] == [3]
    np.testing.assert_array_equal(after.mu_scale["matrix"][3], state.mu_scale["matrix"][3])


def test_a_gradient_that_is_not_finite_makes_its_buffer_nan():
    weights = {"w": jnp.ones((64, 256))}
    gradient = {"w": weights["w"].at[3, 5].set(jnp.nan)}
    w, state = trained(make(), weights, [gradient])
    assert np.isnan(w["w"]).all()
    assert np.isnan(state.mu_scale["w"]).all()


@pytest.mark.parametrize("layers", [Split((20, 44)), Split((100, 100), axis=1), Rows(0), Rows(1)])
def test_every_kind_of_layers_is_near_float32(layers):
    weights, gradients = exact({"w": (64, 200)}, 0), [exact({"w": (64, 200)}, i) for i in (1, 2)]
    (w, _), (wide, _) = (
        trained(make(mu_dtype=dtype, layers=layers), weights, gradients)
        for dtype in (jnp.int8, None)
    )
    np.testing.assert_allclose(w["w"], wide["w"], atol=0.01)
    assert not np.array_equal(w["w"], wide["w"])


def test_complex_weights_are_rounded_as_real_pairs():
    """A complex layer has the norm of its real pairs, so both train alike."""
    real, *gradients = (exact({"w": (64, 64, 2)}, i)["w"] for i in range(4))
    pairs = [jax.lax.complex(x[..., 0], x[..., 1]) for x in (real, *gradients)]
    _, state = trained(make(), pairs[0], pairs[1:])
    _, expected = trained(make(), real, gradients)
    np.testing.assert_array_equal(state.mu, expected.mu)
    np.testing.assert_allclose(state.mu_scale, expected.mu_scale, rtol=1e-6)


def test_the_statistics_are_those_of_the_wide_buffer(expected):
    weights, state = expected
    found = layer_statistics(make(), weights, state)
    wide = {
        name: reference.dequantised(mu, state.mu_scale[name]).astype(np.float32)
        if mu.dtype == "int8"
        else mu
        for name, mu in state.mu.items()
    }
    plain = NovogradState(state.count, wide, state.nu)
    other = layer_statistics(make(mu_dtype=None), weights, plain)
    for name, values in found.items():
        np.testing.assert_allclose(values.update_ratio, other[name].update_ratio, rtol=1e-6)
