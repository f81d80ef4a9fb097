"""Signature, names and configuration, and the errors for bad arguments."""

import doctest
import inspect
import json
from dataclasses import replace

import keras
import numpy as np
import pytest

import novograd.keras
from novograd.keras import NovoGrad
from novograd.layers import Stacked, Whole
from novograd.variants import get

OWN = {
    "learning_rate": None,
    "beta_1": None,
    "beta_2": None,
    "epsilon": None,
    "weight_decay": 0.0,
    "grad_averaging": None,
    "nesterov": None,
    "variant": "documented",
}
NUMBERS = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")
OTHERS = {
    "learning_rate": 0.5,  # exact in float32, in which Keras keeps it
    "beta_1": 0.9,
    "beta_2": 0.7,
    "epsilon": 1e-6,
    "weight_decay": 0.1,
    "grad_averaging": True,
    "nesterov": True,
    "variant": "tfa",
    "clipvalue": 3.0,
    "use_ema": True,
    "ema_momentum": 0.9,
    "ema_overwrite_frequency": 5,
    "loss_scale_factor": 8.0,
    "gradient_accumulation_steps": 2,
    "name": "mine",
}


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(novograd.keras).failed == 0


def test_the_signature_has_the_documented_defaults():
    parameters = inspect.signature(NovoGrad).parameters
    base = inspect.signature(keras.optimizers.SGD).parameters
    own = {name: parameters[name].default for name in list(parameters)[: len(OWN)]}
    assert list(own.items()) == list(OWN.items())
    rest = {name: p.default for name, p in list(parameters.items())[len(OWN) :]}
    assert rest.pop("layers") is None
    assert rest.pop("moment_dtype") is None
    shared = list(base)[list(base).index("clipnorm") :]
    assert rest == {name: base[name].default for name in shared} | {"name": "novograd"}
    assert isinstance(NovoGrad(), keras.optimizers.Optimizer)


def test_the_configuration_restores_the_optimizer():
    optimizer = NovoGrad(**OTHERS)
    config = optimizer.get_config()
    assert {name: config[name] for name in OTHERS} == OTHERS
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is NovoGrad
    assert again.get_config() == config


def test_the_configuration_restores_a_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.25)
    optimizer = NovoGrad(schedule)
    again = NovoGrad.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert float(again.learning_rate) == 0.5


@pytest.mark.parametrize("name", ["novograd", "NovoGrad", "novograd>NovoGrad"])
def test_compile_accepts_the_name_of_the_optimizer(name):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=name, loss="mse")
    assert type(model.optimizer) is NovoGrad
    assert model.optimizer.beta_2 == 0.98


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf"), np.float64(-0.5)])
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, (1|inf)\), got .*{value}"):
        NovoGrad(**{name: value})


@pytest.mark.parametrize("name", ["beta_1", "beta_2"])
@pytest.mark.parametrize("value", [1, 1.0, 1.5])
def test_a_decay_rate_of_one_or_more_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\), got {value}$"):
        NovoGrad(**{name: value})


@pytest.mark.parametrize("name", NUMBERS[1:])
@pytest.mark.parametrize("value", ["0.1", True, [0.1], 1j])
def test_a_number_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a number, got .* of type "):
        NovoGrad(**{name: value})


@pytest.mark.parametrize("value", [1, "0.1", True, np.float32(0.5)])
def test_keras_refuses_a_learning_rate_of_the_wrong_type(value):
    with pytest.raises(ValueError, match=r"`learning_rate` should be float, .*\n?.*="):
        NovoGrad(value)


def test_a_weight_decay_of_none_means_no_decay():
    """None is the default of Keras optimizers, and programs set the attribute to None."""
    weights = []
    for given in (0.0, None, "set"):
        optimizer = NovoGrad(0.5, weight_decay=0.5 if given == "set" else given)
        if given == "set":
            optimizer.weight_decay = None
        again = NovoGrad.from_config(optimizer.get_config())
        assert again.weight_decay == (None if given == "set" else given)
        w = keras.Variable([1.0, 2.0])
        again.apply([keras.ops.convert_to_tensor([3.0, 4.0])], [w])
        weights.append(keras.ops.convert_to_numpy(w))
    np.testing.assert_allclose(weights, [[0.7, 1.6]] * 3, rtol=1e-6)


@pytest.mark.parametrize("name", ["grad_averaging", "nesterov"])
@pytest.mark.parametrize("value", ["yes", 1, 0.0])
def test_a_flag_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got "):
        NovoGrad(**{name: value})


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match=r"not recognized: .*momentum"):
        NovoGrad(momentum=0.9)


def test_a_call_without_gradients_or_with_an_unknown_variable_is_refused():
    known, unknown = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = NovoGrad()
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer.apply([None], [known])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([keras.ops.ones(1)], [unknown])


def test_defaults_come_from_the_variant():
    config = NovoGrad(variant="apex").get_config()
    assert (config["beta_1"], config["beta_2"], config["grad_averaging"]) == (0.9, 0.999, True)
    assert config["learning_rate"] == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="learning_rate must be given: the variant 'optax' has no"):
        NovoGrad(variant="optax")
    with pytest.raises(ValueError, match=r"variant must be one of documented, .*, got 'adam'"):
        NovoGrad(variant="adam")


def test_the_configuration_keeps_a_custom_variant():
    mine = replace(get("nvidia"), name="mine", decay="decoupled")
    assert NovoGrad.from_config(NovoGrad(variant=mine).get_config()).variant == mine


def shapes_of_v(optimizer):
    names = ("kernel", "bias", "embeddings")
    shapes = ((4, 3), (3,), (5, 3))
    weights = [
        keras.Variable(np.ones(shape), name=name) for name, shape in zip(names, shapes, strict=True)
    ]
    optimizer.build(weights)
    return [tuple(x.shape) for x in optimizer.variables if x.name.endswith("_v")]


def test_nesterov_and_layers_come_from_the_variant():
    optimizer = NovoGrad(variant="rows")
    config = optimizer.get_config()
    assert (config["nesterov"], config["beta_1"], config["layers"]) == (True, 0.9, None)
    assert shapes_of_v(optimizer) == [(1, 3), (3,), (5, 1)]
    assert shapes_of_v(NovoGrad.from_config(config)) == [(1, 3), (3,), (5, 1)]
    whole = NovoGrad(variant="rows", nesterov=False, layers=Whole())
    assert whole.nesterov is False
    assert shapes_of_v(NovoGrad.from_config(whole.get_config())) == [(), (), ()]
    some = NovoGrad(variant="rows", layers=lambda x: Stacked() if len(x.shape) > 1 else None)
    assert shapes_of_v(some) == [(4, 1), (), (5, 1)]


def test_a_configuration_of_an_earlier_version_is_restored():
    mine = replace(get("nvidia"), name="mine")
    config = NovoGrad(variant=mine).get_config()
    for name in ("clip", "nesterov", "layers"):
        del config["variant"][name]
    assert NovoGrad.from_config(config).variant == mine


def test_layers_of_a_variant_that_do_not_fit_a_weight_are_refused_by_its_name():
    mine = replace(get("rows"), name="mine", layers=Stacked(1))
    again = NovoGrad.from_config(json.loads(json.dumps(NovoGrad(variant=mine).get_config())))
    for optimizer in (NovoGrad(variant=mine), again):
        with pytest.raises(ValueError, match=r"^variable 'bias': Stacked\(axes=1\) does not fit"):
            shapes_of_v(optimizer)
