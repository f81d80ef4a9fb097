"""``fit`` with everything that Keras offers around an optimizer, compared with the oracle."""

import keras
import numpy as np
import pytest

from novograd import reference
from novograd.keras import NovoGrad
from novograd.layers import Rows
from tests.helpers.parameters import crossed, some

BACKEND = keras.backend.backend()
RANDOM = np.random.default_rng(0)
INPUTS, TARGETS = RANDOM.standard_normal((32, 5)), RANDOM.standard_normal((32, 3))
KERNEL, BIAS = RANDOM.standard_normal((5, 3)), RANDOM.standard_normal(3)
BATCH, EPOCHS = 8, 3

HYPER = {
    "learning_rate": 0.125,
    "beta_1": 0.875,
    "beta_2": 0.75,
    "epsilon": 0.25,
    "weight_decay": 0.0625,
}
# Whether XLA compiles the train step. PyTorch is left out: its compiler needs a C++ compiler.
COMPILED = {"plain": False} if BACKEND == "torch" else {"plain": False, "XLA": True}
# The faster choice for a few steps.
QUICK = BACKEND == "jax"


def fit(optimizer, constraint=None, jit_compile=QUICK):
    """Trains one dense layer. Returns its weights and the optimizer."""
    dense = keras.layers.Dense(3, kernel_constraint=constraint)
    model = keras.Sequential([keras.Input((5,)), dense])
    dense.set_weights([KERNEL, BIAS])
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
    model.fit(INPUTS, TARGETS, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    return dense.get_weights(), model.optimizer


def gradients(weights, batch):
    """Returns the gradients of the mean squared error of a dense layer."""
    rows = slice(BATCH * batch % 32, BATCH * batch % 32 + BATCH)
    error = INPUTS[rows] @ weights[0] + weights[1] - TARGETS[rows]
    return [2 / error.size * INPUTS[rows].T @ error, 2 / error.size * error.sum(axis=0)]


class Oracle:
    """Does the same training with the oracle."""

    def __init__(self, **changes):
        self.weights = [KERNEL, BIAS]
        self.state = [(np.zeros_like(w), 0.0) for w in self.weights]
        self.hyper = [dict(HYPER | {"nesterov": False, "grad_averaging": False} | changes)] * 2

    def step(self, found, **changes):
        for i, hyper in enumerate(self.hyper):
            hyper = hyper | changes
            betas = {f"beta{k}": hyper.pop(f"beta_{k}") for k in (1, 2)}
            self.weights[i], *self.state[i] = reference.step(
                self.weights[i], *self.state[i], found[i], **betas, **hyper
            )

    def run(self, change=lambda found: found):
        for batch in range(EPOCHS * 32 // BATCH):
            self.step(change(gradients(self.weights, batch)))
        return self


def close(actual, expected, tolerance=1e-5):
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(x), y, rtol=tolerance, atol=tolerance)


CHANGES = [{"nesterov": True}, {}, {"grad_averaging": True}, {"weight_decay": 0.0}]


@crossed("jit_compile", COMPILED, "changes", {str(changes): changes for changes in CHANGES})
def test_fit_agrees_with_the_oracle(changes, jit_compile):
    weights, optimizer = fit(NovoGrad(**HYPER | changes), jit_compile=jit_compile)
    oracle = Oracle(**changes).run()
    close(weights, oracle.weights)
    close(optimizer.variables[2:], [x for state in oracle.state for x in state])


def test_fit_follows_a_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.25, 2, 0.5)
    weights, _ = fit(NovoGrad(**HYPER | {"learning_rate": schedule}))
    oracle = Oracle()
    for batch in range(12):
        oracle.step(gradients(oracle.weights, batch), learning_rate=0.25 * 0.5 ** (batch / 2))
    close(weights, oracle.weights)


def test_a_callable_learning_rate_may_change_at_each_step():
    rates = iter([0.5, 0.25, 0.125])
    optimizer = NovoGrad(**HYPER | {"learning_rate": lambda: next(rates)})
    variables = [keras.Variable(w) for w in (KERNEL, BIAS)]
    oracle = Oracle()
    for batch, rate in enumerate((0.5, 0.25, 0.125)):
        found = gradients(oracle.weights, batch)
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in found], variables)
        oracle.step(found, learning_rate=rate)
    close(variables, oracle.weights)


def by_norm(found):
    return [g * min(1, 0.25 / np.linalg.norm(g)) for g in found]


def by_global_norm(found):
    return [g * min(1, 0.25 / np.sqrt(sum(np.sum(g * g) for g in found))) for g in found]


def by_value(found):
    return [np.clip(g, -0.25, 0.25) for g in found]


@pytest.mark.parametrize(
    ("argument", "clip"),
    [("clipnorm", by_norm), ("global_clipnorm", by_global_norm), ("clipvalue", by_value)],
)
def test_gradients_are_clipped(argument, clip):
    weights, _ = fit(NovoGrad(**HYPER, **{argument: 0.25}))
    oracle = Oracle().run(clip)
    close(weights, oracle.weights)
    assert np.abs(weights[0] - Oracle().run().weights[0]).max() > 1e-3


def test_gradients_are_accumulated():
    weights, optimizer = fit(NovoGrad(**HYPER, gradient_accumulation_steps=2))
    oracle = Oracle()
    for batch in range(0, 12, 2):
        pair = (gradients(oracle.weights, batch + i) for i in range(2))
        oracle.step([(first + second) / 2 for first, second in zip(*pair, strict=True)])
    close(weights, oracle.weights)
    close(optimizer.variables[4:], [x for state in oracle.state for x in state])


def test_fit_ends_with_the_averages_of_the_weights():
    weights, _ = fit(NovoGrad(**HYPER, use_ema=True, ema_momentum=0.75))
    oracle = Oracle()
    averages = [0.0, 0.0]
    for batch in range(12):
        oracle.step(gradients(oracle.weights, batch))
        keep = 0.75 if batch else 0.0
        averages = [
            keep * a + (1 - keep) * w for a, w in zip(averages, oracle.weights, strict=True)
        ]
    close(weights, averages)


def test_loss_scaling_does_not_change_the_weights():
    oracle = Oracle().run()
    weights, _ = fit(NovoGrad(**HYPER, loss_scale_factor=1024.0))
    close(weights, oracle.weights)
    optimizer = keras.optimizers.LossScaleOptimizer(NovoGrad(**HYPER))
    weights, _ = fit(optimizer)
    close(weights, oracle.weights)


def test_a_constraint_is_applied_after_each_step():
    weights, _ = fit(NovoGrad(**HYPER), keras.constraints.NonNeg())
    oracle = Oracle()
    for batch in range(12):
        oracle.step(gradients(oracle.weights, batch))
        oracle.weights[0] = np.maximum(oracle.weights[0], 0)
    close(weights, oracle.weights)
    assert np.any(weights[0] == 0)


def test_excluded_variables_do_not_decay():
    optimizer = NovoGrad(**HYPER)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    weights, _ = fit(optimizer)
    oracle = Oracle()
    oracle.hyper[1] = oracle.hyper[1] | {"weight_decay": 0.0}
    close(weights, oracle.run().weights)


def test_a_gradient_may_overwrite_its_variable():
    """float8 training updates its scales in this way."""
    w, scale = keras.Variable([1.0, 2.0], name="w"), keras.Variable([1.0], name="scale")
    scale.overwrite_with_gradient = True
    optimizer = NovoGrad(0.5, weight_decay=0.5)
    gradient = keras.ops.convert_to_tensor([3.0, 4.0])
    optimizer.apply([keras.ops.convert_to_tensor([7.0]), gradient], [scale, w])
    close([scale, w], [[7.0], [1 - 0.3 - 0.25, 2 - 0.4 - 0.5]])
    assert [x.name for x in optimizer.variables[2:]] == ["w_momentum", "w_v"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_precision_training_agrees_with_the_oracle(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        if policy == "mixed_float16":  # the default, 2**15, skips the first steps
            fitted = keras.optimizers.LossScaleOptimizer(NovoGrad(**HYPER), initial_scale=256.0)
            weights, optimizer = fit(fitted)[0], fitted.inner_optimizer
        else:
            weights, optimizer = fit(NovoGrad(**HYPER))
    finally:
        keras.config.set_dtype_policy(before)
    stored = "float32" if policy.startswith("mixed") else policy
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in optimizer.variables[2:]]
    assert dtypes == [stored, "float32"] * 2
    # The gradients have half precision, so the tolerance depends on its number of digits.
    tolerance = 0.01 if "bfloat16" not in policy else 0.08
    close([w.astype(np.float64) for w in weights], Oracle().run().weights, tolerance)


WORDS = RANDOM.integers(0, 6, (16, 4))  # many words occur twice in a batch
LABELS = RANDOM.standard_normal((16, 1))


def fit_words(one_hot, **arguments):
    """Trains an embedding, or the same as a matrix product. Returns weights and state."""
    width, table = 3, np.random.default_rng(1).standard_normal((6, 3))
    if one_hot:
        inputs, x = keras.Input((4, 6)), np.eye(6)[WORDS]
        layer = keras.layers.Dense(width, use_bias=False)
    else:
        inputs, x = keras.Input((4,), dtype="int32"), WORDS
        layer = keras.layers.Embedding(6, width)
    model = keras.Sequential([inputs, layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    layer.set_weights([table])
    model.layers[-1].set_weights([np.linspace(-1, 1, 12)[:, None], np.zeros(1)])
    optimizer = NovoGrad(**HYPER, **arguments)
    model.compile(optimizer, loss="mse", jit_compile=QUICK)
    model.fit(x, LABELS, batch_size=8, epochs=3, shuffle=False, verbose=0)
    variables = [*model.trainable_variables, *optimizer.variables[2:]]
    return [keras.ops.convert_to_numpy(x) for x in variables]


@pytest.mark.parametrize(
    "arguments",
    some(
        [
            {},
            {"clipnorm": 0.25},
            {"global_clipnorm": 0.25},
            {"clipvalue": 0.05},
            {"loss_scale_factor": 1024.0},
            {"gradient_accumulation_steps": 2},
            {"layers": Rows(0)},
        ],
        kept=[{}, {"global_clipnorm": 0.25}, {"layers": Rows(0)}],
    ),
)
def test_an_embedding_is_trained_like_a_matrix_product(arguments):
    close(fit_words(one_hot=False, **arguments), fit_words(one_hot=True, **arguments))


if BACKEND == "tensorflow":
    import tensorflow as tf

    def mirrored():
        return tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )

    def test_duplicate_indices_are_summed_before_the_norm():
        w = keras.Variable(np.zeros((3, 2)))
        optimizer = NovoGrad()
        values = tf.constant([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        optimizer.apply([tf.IndexedSlices(values, [1, 1, 0], [3, 2])], [w])
        assert optimizer.variables[3].numpy() == 10.0  # not 6

    def test_two_replicas_equal_one():
        """Each replica gets half of each batch."""
        with mirrored().scope():
            weights, optimizer = fit(NovoGrad(**HYPER))
        oracle = Oracle().run()
        close(weights, oracle.weights)
        close(optimizer.variables[2:], [x for state in oracle.state for x in state])

    @pytest.mark.parametrize("layers", some([None, Rows(0)], kept=[Rows(0)]))
    def test_an_embedding_on_two_replicas_equals_one(layers):
        expected = fit_words(one_hot=True, layers=layers)
        with mirrored().scope():
            close(fit_words(one_hot=False, layers=layers), expected)
