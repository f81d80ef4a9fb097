"""Signatures, and the errors for bad arguments."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from novograd.jax import NovogradState, novograd, scale_by_novograd
from novograd.layers import Rows, Stacked, Whole
from novograd.variants import get
from tests.helpers.jax import assert_close

DEFAULTS = {
    "b1": None,
    "b2": None,
    "eps": None,
    "weight_decay": 0.0,
    "grad_averaging": None,
    "variant": "documented",
    "nesterov": None,
    "mask": None,
    "mu_dtype": None,
    "layers": None,
    "axis_name": None,
    "skip_nonfinite": False,
    "fused": None,
}
NUMBERS = ("learning_rate", "b1", "b2", "eps", "weight_decay")
SCHEDULES = ("learning_rate", "weight_decay")
FLAGS = ("grad_averaging", "nesterov", "skip_nonfinite")


def make(**arguments):
    return novograd(**{"learning_rate": 0.1} | arguments)


@pytest.mark.parametrize(
    ("function", "first"),
    [(novograd, {"learning_rate": inspect.Parameter.empty}), (scale_by_novograd, {})],
)
def test_the_signatures_have_the_documented_defaults(function, first):
    parameters = inspect.signature(function).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    assert list(defaults.items()) == list((first | DEFAULTS).items())
    keywords = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert keywords == list(DEFAULTS)[5:]


def test_the_transformations_have_the_type_that_optax_uses():
    kind = type(optax.novograd(0.1))
    assert isinstance(make(), kind)
    assert type(scale_by_novograd()) is kind
    transformation = make()
    assert tuple(transformation) == (transformation.init, transformation.update)
    weights = jnp.ones(2)
    updates, _ = make().update(weights, make().init(weights), weights, value=1.0)
    assert updates.shape == (2,)


def test_the_state_has_the_documented_fields_shapes_and_dtypes():
    weights = {"a": jnp.ones((2, 3)), "b": jnp.ones(4, jnp.bfloat16)}
    state = make().init(weights)
    assert isinstance(state, NovogradState)
    assert NovogradState._fields == ("count", "mu", "nu", "nu_max")
    described = jax.tree.map(lambda x: (x.shape, x.dtype.name, x.weak_type), state)
    assert described == NovogradState(
        count=((), "int32", False),
        mu={"a": ((2, 3), "float32", False), "b": ((4,), "bfloat16", False)},
        nu={"a": ((), "float32", False), "b": ((), "float32", False)},
    )


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1e-9, -1, float("nan"), float("inf"), np.array(-0.5)])
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, (1|inf)\), got .*{value}"):
        make(**{name: value})


@pytest.mark.parametrize("name", ["b1", "b2"])
@pytest.mark.parametrize("value", [1, 1.0, 1.5])
def test_a_decay_rate_of_one_or_more_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\), got {value}$"):
        make(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["0.1", True, [0.1], 1j])
def test_a_number_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a number, got .* of type "):
        make(**{name: value})


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - set(SCHEDULES)))
def test_a_schedule_is_refused_for_an_argument_that_must_be_a_number(name):
    with pytest.raises(TypeError, match=rf"^{name} must be a number, got .* of type function"):
        make(**{name: lambda count: 0.5})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_an_array_that_is_not_a_real_scalar_is_refused(name, array):
    with pytest.raises(ValueError, match=rf"^{name} must be a scalar, got an array of .*\(2,\)"):
        make(**{name: array([0.5, 0.5])})
    with pytest.raises(TypeError, match=rf"^{name} must be a (real )?number, got"):
        make(**{name: array(0.5j)})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["yes", 1, 0.0])
def test_a_flag_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got "):
        make(**{name: value})


@pytest.mark.parametrize("value", ["fast", 3, jnp.int32, jnp.uint8, jnp.complex64, jnp.ones])
def test_a_mu_dtype_that_is_neither_int8_nor_a_real_floating_dtype_is_refused(value):
    kind = ValueError if value in (jnp.int32, jnp.uint8, jnp.complex64) else TypeError
    with pytest.raises(kind, match=r"^mu_dtype must be int8, a real floating dtype or None, got"):
        make(mu_dtype=value)


@pytest.mark.parametrize("value", [0.5, {"a": True, "b": "no"}, [1]])
def test_a_mask_of_the_wrong_type_is_refused(value):
    with pytest.raises(TypeError, match=r"^mask must be a tree of bools, .* got .* of type"):
        make(mask=value)


@pytest.mark.parametrize(
    "value",
    [0, 1, 0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), jnp.array(0.5), jnp.array(1)],
)
def test_every_kind_of_number_is_accepted(value):
    w = jnp.ones(2)
    optimizer = make(learning_rate=value, weight_decay=value, b1=np.float64(0.5), eps=0)
    updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(w), w)
    step = np.array([0.6, 0.8]) + float(value)
    assert_close(updates, -float(value) * step)
    assert updates.dtype == jnp.float32


@pytest.mark.parametrize("result", [int, float, np.float32, np.float64, jnp.float32])
def test_a_schedule_may_return_every_kind_of_number(result):
    w = jnp.ones(2)
    optimizer = make(learning_rate=lambda count: result(2))
    updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(w))
    assert_close(updates, [-1.2, -1.6])
    assert updates.dtype == jnp.float32


@pytest.mark.parametrize("decay", [0.1, jnp.zeros(()), lambda count: 0.0])
def test_update_requires_the_weights_if_they_may_decay(decay):
    w = jnp.ones(2)
    for optimizer in (make(weight_decay=decay), scale_by_novograd(weight_decay=decay)):
        with pytest.raises(ValueError, match=r"^update needs params=, the current weights, for"):
            optimizer.update(w, optimizer.init(w))


@pytest.mark.parametrize("decay", [0, 0.0, np.float32(0), np.array(0.0)])
def test_update_does_not_require_the_weights_without_decay(decay):
    optimizer = make(weight_decay=decay)
    updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(jnp.ones(2)))
    assert_close(updates, [-0.06, -0.08])


def test_gradients_of_another_tree_are_refused():
    state = make().init({"a": jnp.ones(2)})
    with pytest.raises(ValueError, match="key"):
        make().update({"b": jnp.ones(2)}, state)


# -- dtypes of leaves -----------------------------------------------------------------------------

WAYS = {
    "update": lambda tx, w, state, g: tx.update(g, state, w),
    "step": lambda tx, w, state, g: tx.step(w, state, g),
}


def ways(test):
    """Runs a test with ``update`` and with ``step``, eager and compiled."""
    test = pytest.mark.parametrize("way", WAYS)(test)
    return pytest.mark.parametrize("jit", [False, True])(test)


def run(way, jit, optimizer, *arguments):
    function = functools.partial(WAYS[way], optimizer)
    return (jax.jit(function) if jit else function)(*arguments)


@ways
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("given", ["weights", "gradients", "both"])
@pytest.mark.parametrize(("w", "g"), [(1.0, 2.0), (1.0 + 2j, 2j), (0.5, -2.0)])
def test_python_numbers_behave_like_arrays_without_axes(w, g, given, decay, way, jit):
    def array(x, is_number):
        return {"a": [x if is_number else jnp.asarray(x)], "b": jnp.ones(2)}

    optimizer = make(weight_decay=decay)
    results = [
        run(way, jit, optimizer, weights, optimizer.init(weights), gradients)
        for weights, gradients in (
            (array(w, False), array(g, False)),
            (array(w, given != "gradients"), array(g, given != "weights")),
        )
    ]
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), result) for result in results]
    assert kinds[0] == kinds[1]
    jax.tree.map(assert_close, *(jax.tree.map(_pair, result) for result in results))


def _pair(x):
    return np.stack([np.real(x), np.imag(x)])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("number", [2.0, 2j])
def test_updates_for_python_numbers_have_the_shape_and_dtype_that_optax_gives(number, jit):
    """optax.adam accepts complex Python numbers only under jit."""
    weights = {"a": number, "b": [number, jnp.ones(2)]}
    kinds = []
    for optimizer in (make(), optax.adam(0.1)):
        update = jax.jit(optimizer.update) if jit or number == 2j else optimizer.update
        updates, _ = update(weights, optimizer.init(weights), weights)
        kinds.append(jax.tree.map(lambda x: (x.shape, x.dtype), updates))
    assert kinds[0] == kinds[1]


INTEGERS = {
    "int32": jnp.array([3, 4]),
    "uint8": np.array([3, 4], np.uint8),
    "bool": jnp.array([True, False]),
    "int": 3,
}


@ways
@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("mu_dtype", [None, jnp.float32])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("where", ["weights", "gradients"])
def test_integers_are_refused_by_name(where, decay, mu_dtype, kind, way, jit):
    integers = INTEGERS[kind]
    fractions = jnp.asarray(integers, jnp.float32)
    w, g = (integers, fractions) if where == "weights" else (fractions, integers)
    optimizer = make(weight_decay=decay, mu_dtype=mu_dtype)
    weights = {"x": jnp.ones(2), "y": [w]}
    name = {"update": "updates", "step": "gradients"}[way]
    if where == "weights":
        name = "params" if decay or way == "step" else "state.mu"
    dtype = "int32" if kind == "int" else kind
    with pytest.raises(
        TypeError,
        match=rf"^{name}\['y'\]\[0\] must have a floating or complex dtype, got {dtype}; a leaf "
        "that is not trained needs None as its gradient",
    ):
        run(way, jit, optimizer, weights, optimizer.init(weights), {"x": jnp.ones(2), "y": [g]})


@ways
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "float8_e4m3fn"])
def test_every_floating_and_complex_dtype_is_accepted(dtype, way, jit):
    w = {"a": jnp.ones(2, dtype)}
    result, state = run(way, jit, make(), w, make().init(w), w)
    assert result["a"].dtype == state.mu["a"].dtype == dtype


@ways
@pytest.mark.parametrize("missing", ["None", "float0"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_integers_without_a_gradient_stay_unchanged(decay, missing, way, jit):
    """Modules hold such counters and tables. float32 cannot represent the largest integer here."""
    weights = {"w": jnp.ones(2), "n": jnp.array([3, 2**24 + 1]), "m": optax.MaskedNode(), "o": None}
    gradients = jax.grad(lambda tree: jnp.sum(tree["w"] ** 2), allow_int=True)(weights)
    assert gradients["n"].dtype == jax.dtypes.float0
    if missing == "None":
        gradients["n"] = None
    optimizer = make(weight_decay=decay, mask={"w": True, "n": True})
    state = optimizer.init(weights)
    result, after = run(way, jit, optimizer, weights, state, gradients)
    assert result["m"] == optax.MaskedNode()
    assert result["o"] is None
    if way == "step":
        np.testing.assert_array_equal(result["n"], weights["n"])
        assert result["n"].dtype == weights["n"].dtype
    elif missing == "None":
        assert result["n"] is None
    else:
        assert result["n"].dtype == jax.dtypes.float0
    np.testing.assert_array_equal(after.mu["n"], state.mu["n"])
    np.testing.assert_array_equal(after.nu["n"], state.nu["n"])
    assert np.all(np.asarray(after.mu["w"]) != np.asarray(state.mu["w"]))


# -- variants -------------------------------------------------------------------------------------


def test_defaults_come_from_the_variant():
    g = {"w": jnp.array([3.0, 4.0])}
    given = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "grad_averaging": True}
    short, long = make(variant="apex"), make(variant=get("apex"), **given)
    states = [optimizer.init(g) for optimizer in (short, long)]
    for _ in range(3):
        (u, states[0]), (v, states[1]) = short.update(g, states[0], g), long.update(g, states[1], g)
        np.testing.assert_array_equal(u["w"], v["w"])
    with pytest.raises(ValueError, match=r"variant must be one of documented, .*, got 'adam'"):
        make(variant="adam")
    with pytest.raises(TypeError, match="variant must be a name or a Variant, got 3"):
        make(variant=3)


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [
        (None, ((1, 3), (3,), (5, 1))),
        (Whole(), ((), (), ())),
        (lambda path, leaf: Stacked() if leaf.ndim > 1 else None, ((4, 1), (), (5, 1))),
        ({"kernel": Whole(), "bias": None, "embedding": Stacked(1)}, ((), (), (1, 3))),
    ],
    ids=["none", "whole", "function", "tree"],
)
def test_the_layers_of_a_variant_are_the_default(layers, shapes):
    weights = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3), "embedding": jnp.ones((5, 3))}
    state = make(variant="rows", layers=layers).init(weights)
    assert tuple(state.nu[name].shape for name in weights) == shapes


def test_nesterov_of_a_variant_is_the_default():
    w, g = jnp.ones((4, 3)), jnp.arange(12.0).reshape(4, 3)
    given = {"layers": Rows(scale="rms"), "nesterov": True}
    optimizers = [make(variant="rows", **x) for x in ({}, given, {"nesterov": False})]
    first, same, other = (one.update(g, one.init(w), w)[0] for one in optimizers)
    np.testing.assert_array_equal(first, same)
    assert np.all(np.asarray(first)[1:] != np.asarray(other)[1:])


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
@pytest.mark.parametrize("options", [{}, {"fused": False}])
def test_a_schedule_must_return_a_scalar(name, options):
    w = jnp.ones(2)
    optimizer = make(**{name: lambda count: jnp.ones(1)}, **options)
    with pytest.raises(ValueError, match=rf"^the schedule {name} must return a scalar, got .*\(1,"):
        optimizer.update(w, optimizer.init(w), w)
