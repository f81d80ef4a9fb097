"""Flax: weights in its boxes, and optimizers in its states."""

import copy
import functools

import cloudpickle
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from novograd.jax import novograd
from novograd.layers import Rows, Stacked
from tests.helpers.jax import made_up, train


class Model(nnx.Module):
    """Has layers by name and in a list, and a weight that is a tree."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.tree = nnx.Param({"value": jnp.ones(4), "other": jnp.ones(4)})

    def __call__(self, x):
        x = self.embed(x) * self.tree["value"] + self.tree["other"]
        return functools.reduce(lambda x, block: block(x), self.blocks, x)


PATHS = [
    "['blocks'][0]['bias']",
    "['blocks'][0]['kernel']",
    "['blocks'][1]['bias']",
    "['blocks'][1]['kernel']",
    "['embed']['embedding']",
    "['tree']['other']",
    "['tree']['value']",
]


def recorded(answer=None):
    """Returns a function of path and leaf with a fixed result, and the list of paths it got."""
    paths = []

    def function(path, leaf):
        paths.append(jax.tree_util.keystr(path))
        return answer

    return function, paths


def nnx_step(**arguments):
    """Makes an optimizer in NNX, then takes a step; yields the state after each."""
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, novograd(0.1, **arguments), wrt=nnx.Param)
    yield optimizer.opt_state
    gradients = nnx.grad(lambda model: jnp.mean(model(jnp.arange(3)) ** 2))(model)
    optimizer.update(model, gradients)
    yield optimizer.opt_state


def linen_step(**arguments):
    """Does the same as ``nnx_step`` with weights in boxes of Linen."""
    weights = {
        "kernel": nn.Partitioned(jnp.ones((2, 3)), names=(None, "x")),
        "embedding": nn.LogicallyPartitioned(jnp.ones((2, 3)), names=(None, "x")),
        "bias": jnp.ones(3),
    }
    optimizer = novograd(0.1, **arguments)
    state = optimizer.init(weights)
    yield state
    yield optimizer.update(weights, state, weights)[1]


@pytest.mark.parametrize("argument", ["layers", "axis_name"])
@pytest.mark.parametrize(
    ("steps", "expected"),
    [(nnx_step, PATHS), (linen_step, ["['bias']", "['embedding']", "['kernel']"])],
)
def test_functions_get_paths_without_boxes(argument, steps, expected):
    function, paths = recorded()
    for _ in steps(**{argument: function}):
        assert paths == expected
        paths.clear()


def test_a_value_field_beside_other_fields_stays_in_the_path():
    @functools.partial(
        jax.tree_util.register_dataclass, data_fields=["query", "value"], meta_fields=[]
    )
    class Attention:
        def __init__(self, query, value):
            self.query, self.value = query, value

    function, paths = recorded()
    novograd(0.1, layers=function).init(Attention(jnp.ones(2), {"kernel": jnp.ones(2)}))
    assert paths == [".query", ".value['kernel']"]


@pytest.mark.parametrize("argument", ["layers", "mask"])
def test_a_tree_of_plain_dicts_is_a_prefix_for_nnx_states(argument):
    held = {"layers": (Rows(), None), "mask": (True, False)}[argument]
    tree = {"embed": held[0], "blocks": {0: held[0], 1: held[1]}, "tree": held[1]}
    by_function = {
        "layers": lambda path, leaf: held[value_at(path, tree)],
        "mask": lambda w: jax.tree_util.tree_map_with_path(
            lambda path, _: held[value_at(path, tree)], w
        ),
    }[argument]
    states = [
        list(nnx_step(weight_decay=0.1, **{argument: value}))[-1] for value in (tree, by_function)
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)


def value_at(path, tree):
    """Returns which of two values (0 or 1) the tree has at a path."""
    first, second, *_ = (key.key for key in path)
    return 0 if first == "embed" or (first, second) == ("blocks", 0) else 1


def test_a_function_can_choose_layers_by_the_last_name_of_the_path():
    def choose(path, leaf):
        return Rows() if path[-1].key == "embedding" else None

    for state in nnx_step(layers=choose):
        shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(state.nu))
        assert shapes["embed"]["embedding"] == (5, 1)
        assert shapes["blocks"][0]["kernel"] == ()


# -- optimizers in states -------------------------------------------------------------------------


def train_state():
    weights, _ = made_up({"a": (3, 2), "b": (2,)})
    return TrainState.create(
        apply_fn=None,
        params=weights,
        tx=novograd(0.1, weight_decay=0.1, layers={"a": Stacked(), "b": None}),
    )


@pytest.mark.parametrize(
    "way",
    [
        copy.copy,
        copy.deepcopy,
        lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
        lambda x: x.replace(tx=jax.tree.map(lambda leaf: leaf, x.tx)),
        jax.jit(lambda x: x),
    ],
    ids=["copy", "deepcopy", "cloudpickle", "tree.map", "jit"],
)
def test_a_train_state_can_be_rebuilt_with_its_optimizer(way):
    weights, gradients = made_up({"a": (3, 2), "b": (2,)})
    expected, _ = train(train_state().tx, weights, gradients)
    state = way(train_state())
    for gradient in gradients:
        state = jax.jit(lambda state, g: state.apply_gradients(grads=g))(state, gradient)
    jax.tree.map(np.testing.assert_array_equal, state.params, expected)
    assert callable(state.tx.step)


@pytest.mark.parametrize("way", [copy.deepcopy, nnx.clone, lambda x: nnx.merge(*nnx.split(x))])
def test_an_optimizer_of_nnx_can_be_rebuilt(way):
    model = Model(nnx.Rngs(0))
    optimizer = way(nnx.Optimizer(model, novograd(0.1), wrt=nnx.Param))
    before = jax.tree.map(jnp.array, nnx.state(model))
    optimizer.update(model, nnx.state(model, nnx.Param))
    assert not np.array_equal(before["embed"]["embedding"][...], model.embed.embedding[...])
    assert callable(optimizer.tx.step)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["tx", "state", "w"], meta_fields=[]
)
class Trainer:
    """Holds a transformation among its leaves, as modules of Equinox do."""

    def __init__(self, tx, state, w):
        self.tx, self.state, self.w = tx, state, w


def test_a_tree_that_holds_a_transformation_can_be_mapped():
    w = jnp.ones(2)
    ours = novograd(0.1)
    trainer = Trainer(ours, ours.init(w), w)
    leaves, structure = jax.tree.flatten(trainer)
    assert [leaf for leaf in leaves if not isinstance(leaf, jax.Array)] == [*ours]
    rebuilt = structure.unflatten(leaves)
    assert isinstance(rebuilt.tx, optax.GradientTransformationExtraArgs)
    after, _ = rebuilt.tx.step(rebuilt.w, rebuilt.state, jnp.array([3.0, 4.0]))
    np.testing.assert_array_equal(after, ours.step(w, ours.init(w), jnp.array([3.0, 4.0]))[0])
    arrays = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, rebuilt)
    assert arrays.tx == (None, None)
