"""The documented signature, and the errors for bad arguments."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from ai4med.libs.optimizers import NovoGrad as DocumentedPath
from novograd.tensorflow import NovoGrad

# Arguments of ai4med.libs.optimizers.NovoGrad in NVIDIA Clara Train 3.1, in the same order.
DOCUMENTED = {
    "learning_rate": 1.0,
    "beta1": 0.95,
    "beta2": 0.98,
    "epsilon": 1e-08,
    "weight_decay": 0.0,
    "grad_averaging": False,
    "use_locking": False,
    "name": "NovoGrad",
}
NUMBERS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
FLAGS = ("grad_averaging", "use_locking", "use_nesterov")


def test_the_signature_is_the_documented_one():
    parameters = inspect.signature(NovoGrad).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    ours = [("use_nesterov", False), ("layers", None)]
    assert list(defaults.items()) == [*DOCUMENTED.items(), *ours]
    apply = inspect.signature(NovoGrad.apply_gradients).parameters
    assert list(apply)[:4] == ["self", "grads_and_vars", "global_step", "name"]
    assert [apply[name].default for name in ("global_step", "name")] == [None, None]


def test_all_arguments_may_be_positional():
    optimizer = NovoGrad(0.5, 0.9, 0.7, 1e-6, 0.1, True, True, "Mine")
    assert optimizer.get_name() == "Mine"


def test_the_class_has_the_documented_path_and_base_class():
    assert DocumentedPath is NovoGrad
    assert isinstance(NovoGrad(), tf.compat.v1.train.MomentumOptimizer)
    assert NovoGrad.__mro__[1].__module__ == "tensorflow.python.training.momentum"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1e-9, -1, float("nan"), float("inf"), np.float32(-0.5)])
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, (1|inf)\), got .*{value}"):
        NovoGrad(**{name: value})


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [1, 1.0, 1.5])
def test_a_decay_rate_of_one_or_more_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\), got {value}$"):
        NovoGrad(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["0.1", None, True, [0.1], 1j])
def test_a_number_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a number, got .* of type "):
        NovoGrad(**{name: value})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["yes", None, 1, 0.0])
def test_a_flag_of_the_wrong_type_is_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got "):
        NovoGrad(**{name: value})


def test_a_name_of_the_wrong_type_is_refused():
    with pytest.raises(TypeError, match=r"^name must be a str, got 3 of type int$"):
        NovoGrad(name=3)


def test_epsilon_must_not_be_a_tensor():
    with pytest.raises(TypeError, match=r"^epsilon must be a number"):
        NovoGrad(epsilon=tf.constant(1e-8))


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "beta2", "weight_decay"])
def test_a_schedule_that_needs_the_step_is_refused(name):
    schedule = tf.keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(TypeError, match=rf"^{name} must be callable without .* schedule\(step\)"):
        NovoGrad(**{name: schedule})


def test_a_schedule_follows_a_step_in_eager_execution():
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    step, w = tf.Variable(0, dtype=tf.int64), tf.Variable([1.0])
    optimizer = NovoGrad(lambda: schedule(step), beta1=0)
    weights = []
    for _ in range(2):
        optimizer.apply_gradients([(tf.constant([1.0]), w)], global_step=step)
        weights.extend(w.numpy())
    assert weights == [0.5, 0.25]


def test_a_tensor_that_is_not_a_real_scalar_is_refused():
    with pytest.raises(ValueError, match=r"^beta1 must be a scalar, got a tensor of shape \(2,\)"):
        NovoGrad(beta1=tf.constant([0.9, 0.9]))
    with pytest.raises(TypeError, match=r"^learning_rate must be a real number, .* string"):
        NovoGrad(learning_rate=tf.constant("0.1"))


@pytest.mark.parametrize("value", [0, 1, np.float32(0.5), np.float64(0.5), np.array(0.5)])
def test_every_kind_of_number_is_accepted(value):
    w = tf.Variable([1.0, 1.0], dtype=tf.float64)
    optimizer = NovoGrad(learning_rate=value, epsilon=0)
    optimizer.apply_gradients([(tf.constant([3.0, 4.0], tf.float64), w)])
    np.testing.assert_allclose(w.numpy(), 1 - float(value) * np.array([0.6, 0.8]), rtol=1e-15)


@pytest.fixture
def pair():
    return tf.constant([1.0]), tf.Variable([1.0])


@pytest.mark.parametrize(
    "malform",
    [
        lambda g, w: 3,
        lambda g, w: g,
        lambda g, w: [w],
        lambda g, w: [(g,)],
        lambda g, w: [(g, w, w)],
        lambda g, w: [(g, w), None],
        lambda g, w: [(object(), w)],
    ],
)
@pytest.mark.filterwarnings("ignore:.*iterating over.*")
def test_malformed_pairs_are_refused(pair, malform):
    gradient, w = pair
    with pytest.raises(TypeError):
        NovoGrad().apply_gradients(malform(gradient, w))
    assert w.numpy() == [1.0]


def keras_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


@pytest.mark.parametrize("compiled", [tf.function, lambda function: function])
def test_variables_of_keras_are_refused_and_nothing_changes(compiled):
    model, optimizer = keras_model(), NovoGrad(0.1)
    before = model.get_weights()

    @compiled
    def step():
        gradients = [tf.ones(v.shape) for v in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    with pytest.raises(TypeError, match=r"grads_and_vars must .* of Keras 3: give \[v\.value for"):
        step()
    with pytest.raises(TypeError, match="var_list must have variables of TensorFlow"):
        optimizer.minimize(lambda: model(tf.ones((2, 3))), var_list=model.trainable_variables)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not optimizer.variables()


def test_the_values_of_variables_of_keras_are_trained():
    model, optimizer = keras_model(), NovoGrad(0.1)
    weights = [v.value for v in model.trainable_variables]
    before = model.get_weights()
    optimizer.minimize(lambda: tf.reduce_sum(model(tf.ones((2, 3))) ** 2), var_list=weights)
    assert all((now != then).any() for now, then in zip(model.get_weights(), before, strict=True))


def test_a_call_without_gradients_is_refused(pair):
    _, w = pair
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        NovoGrad().apply_gradients([(None, w)])
    with pytest.raises(ValueError, match="No variables provided"):
        NovoGrad().apply_gradients([])


def test_a_call_in_cross_replica_context_is_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        w = tf.Variable([1.0])
        with pytest.raises(RuntimeError, match="_distributed_apply"):
            NovoGrad().apply_gradients([(tf.constant([1.0]), w)])


def test_apply_gradients_accepts_arguments_of_the_base_class(pair):
    gradient, w = pair
    NovoGrad(learning_rate=0.5).apply_gradients([(gradient, w)], skip_gradients_aggregation=True)
    assert w.numpy() == [0.5]


def test_pairs_may_be_a_generator_or_lists(pair):
    gradient, w = pair
    NovoGrad(learning_rate=0.5).apply_gradients([gradient, w] for _ in range(1))
    assert w.numpy() == [0.5]


def test_complex_variables_are_refused_and_nothing_changes():
    variable, value = tf.Variable([1 + 2j], dtype=tf.complex64), [1 + 2j]
    with pytest.raises(ValueError, match=r"Invalid type tf[.]complex64"):
        NovoGrad(0.1).apply_gradients([(tf.constant(value, tf.complex64), variable)])
    assert variable.numpy() == value
