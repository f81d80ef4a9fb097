"""The rule: numbers by hand, properties, and every published variant as a choice of scalars."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from novograd import rule
from novograd.rule import Coefficients


def step(w, m, v, g, *, nesterov=False, lr=0.1, beta1=0.9, beta2=0.98, epsilon=1e-8, decay=0.0):
    """One step of the documented rule from its three functions."""
    v = rule.second_moment(np.sum(g * g), v, 0.0 if v == 0 else beta2)
    scalars = rule.coefficients(
        v, lr=lr, beta1=beta1, epsilon=epsilon, weight_decay=decay, grad_averaging=False
    )
    w, m = rule.linear_pass(w, m, g, scalars, beta1=beta1, nesterov=nesterov)
    return w, m, v


def test_two_steps_by_hand():
    # lr 0.5, beta1 0.9, beta2 0.75, epsilon 0, decay 0.1, weight 1, gradients 4 and 3:
    # v = 16, m = 0.5*(1 + 0.1) = 0.55, w = 0.45; v = 0.75*16 + 0.25*9 = 14.25,
    # m = 0.9*0.55 + 0.5*(3/sqrt(14.25) + 0.045) = 0.9148597071, w = -0.4648597071
    settings = {"lr": 0.5, "beta1": 0.9, "beta2": 0.75, "epsilon": 0.0, "decay": 0.1}
    w, m, v = step(1.0, 0.0, 0.0, 4.0, **settings)
    assert (w, m, v) == pytest.approx((0.45, 0.55, 16.0), rel=1e-12)
    w, m, v = step(w, m, v, 3.0, **settings)
    assert (w, m, v) == pytest.approx((-0.4648597071, 0.9148597071, 14.25), rel=1e-9)


vectors = arrays(np.float64, 5, elements=st.floats(-1e3, 1e3).map(lambda x: round(x, 3)))
gradients = st.lists(vectors, min_size=1, max_size=5)


def run(w, gradients, **settings):
    m, v = np.zeros_like(w), 0.0
    for g in gradients:
        w, m, v = step(w, m, v, g, **settings)
    return w, m


@given(vectors, gradients, st.integers(-20, 20), st.booleans())
def test_the_scale_of_the_gradients_does_not_matter(w, gradients, exponent, nesterov):
    # A power of two, so that only the root is rounded otherwise: ``x**0.5`` is a power, which may
    # be off by a unit, and not by the same when x is scaled. Epsilon is far below any gradient.
    settings = {"nesterov": nesterov, "epsilon": 1e-300}
    scaled = [g * 2.0**exponent for g in gradients]
    for plain, other in zip(run(w, gradients, **settings), run(w, scaled, **settings), strict=True):
        np.testing.assert_allclose(plain, other, rtol=1e-13, atol=1e-13)


@given(vectors, gradients, st.permutations(range(5)))
def test_the_order_of_the_weights_does_not_matter(w, gradients, order):
    settings = {"decay": 0.1, "epsilon": 1e-3}
    plain = run(w, gradients, **settings)
    permuted = run(w[order], [g[order] for g in gradients], **settings)
    for x, y in zip(plain, permuted, strict=True):
        # The sum of squares is added up in another order.
        np.testing.assert_allclose(x[order], y, rtol=1e-12, atol=1e-12)


@given(vectors, st.integers(1, 4))
def test_zero_gradients_do_nothing(w, count):
    after, m = run(w, [np.zeros(5)] * count)
    np.testing.assert_array_equal(after, w)
    np.testing.assert_array_equal(m, np.zeros(5))


@given(vectors, vectors.filter(lambda g: np.any(g != 0)))
def test_the_first_step_has_the_length_of_the_learning_rate(w, g):
    _, m = run(w, [g], lr=0.25, epsilon=1e-300)
    assert np.linalg.norm(m) == pytest.approx(0.25, rel=1e-12)


def test_read_only_inputs_and_scalars_for_many_layers_at_once():
    w, m, g = np.ones((3, 2)), np.zeros((3, 2)), np.arange(6.0).reshape(3, 2)
    for x in (w, m, g):
        x.flags.writeable = False
    s = np.sum(g * g, axis=1, keepdims=True)
    scalars = rule.coefficients(
        s, lr=0.1, beta1=0.9, epsilon=0.0, weight_decay=0.1, grad_averaging=False
    )
    together = rule.linear_pass(w, m, g, scalars, beta1=0.9)
    for i in range(3):
        alone = step(w[i], m[i], 0.0, g[i], epsilon=0.0, decay=0.1)
        np.testing.assert_array_equal(together[0][i], alone[0])
        np.testing.assert_array_equal(together[1][i], alone[1])


def test_the_algorithm_fits_on_a_page():
    lines = Path(rule.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 100
    assert not [
        line for line in lines if line.startswith(("import ", "from ")) and "typing" not in line
    ]


# Every published NovoGrad is a choice of beta2 and of a, b, c, d. Each row below has a peer's step
# in its own words, and the scalars that reproduce it. lr and t change from step to step.
LR, B1, B2, EPS, WD = 0.1, 0.9, 0.75, 1e-3, 0.05


def _average(v, s, t, first):
    return s if t == 1 and first else B2 * v + (1 - B2) * s


def nvidia(w, m, v, g, lr, t):
    """DeepLearningExamples, NeMo, MONAI, timm: epsilon outside, lr at the update."""
    v = _average(v, g @ g, t, first=True)
    m = B1 * m + (g / (np.sqrt(v) + EPS) + WD * w)
    return w - lr * m, m, v


def timm_decoupled(w, m, v, g, lr, t):
    """Newer timm with decoupled decay."""
    v = _average(v, g @ g, t, first=True)
    w = w * (1 - lr * WD)
    m = B1 * m + g / (np.sqrt(v) + EPS)
    return w - lr * m, m, v


def tfa(w, m, v, g, lr, t):
    """TensorFlow Addons: averaging skipped on the first step, lr inside."""
    v = _average(v, g @ g, t, first=True)
    update = g / (np.sqrt(v) + EPS) + WD * w
    m = B1 * m + lr * update * (1 if t == 1 else 1 - B1)
    return w - m, m, v


def flashlight(w, m, v, g, lr, t):
    """Flashlight: v starts at zero, always averaged."""
    v = _average(v, g @ g, t, first=False)
    m = B1 * m + (1 - B1) * (g / (np.sqrt(v) + EPS) + WD * w)
    return w - lr * m, m, v


def apex(w, m, v, g, lr, t):
    """Apex's default: moment of the raw gradient, bias corrections, decoupled decay."""
    v = _average(v, g @ g, t, first=True)
    m = B1 * m + (1 - B1) * g
    denominator = np.sqrt(v) / np.sqrt(1 - B2**t) + EPS
    return w - lr * (m / (1 - B1**t) / denominator + WD * w), m, v


def pytorch_optimizer(w, m, v, g, lr, t):
    """pytorch-optimizer: the first step enters the moment twice, Adam's corrected rate."""
    v = _average(v, g @ g, t, first=True)
    update = g / (np.sqrt(v) + EPS) + WD * w
    m = update + B1 * update if t == 1 else B1 * m + update
    return w - lr * np.sqrt(1 - B2**t) / (1 - B1**t) * m, m, v


def openseq2seq(w, m, v, g, lr, t):
    """OpenSeq2Seq as it runs: the average is not kept, epsilon inside, averaging scales decay."""
    update = (1 - B1) * (g / np.sqrt(g @ g + EPS) + WD * w)
    m = B1 * m + update
    return w - lr * m, m, g @ g


def amsgrad(w, m, v, g, lr, t):
    """NVIDIA's amsgrad: the largest average so far; (v, largest) is the state."""
    v, largest = v if t > 1 else (0.0, 0.0)
    v = _average(v, g @ g, t, first=True)
    largest = max(largest, v)
    m = B1 * m + (g / (np.sqrt(largest) + EPS) + WD * w)
    return w - lr * m, m, (v, largest)


def _outside(v):
    return 1 / (np.sqrt(v) + EPS)


DIALECTS = [
    (nvidia, lambda v, lr, t: Coefficients(_outside(v), WD, 1, lr)),
    (timm_decoupled, lambda v, lr, t: Coefficients(_outside(v), 0, 1 - lr * WD, lr)),
    (
        tfa,
        lambda v, lr, t: Coefficients(
            lr * (1 if t == 1 else 1 - B1) * _outside(v), lr * (1 if t == 1 else 1 - B1) * WD, 1, 1
        ),
    ),
    (flashlight, lambda v, lr, t: Coefficients((1 - B1) * _outside(v), (1 - B1) * WD, 1, lr)),
    (
        apex,
        lambda v, lr, t: Coefficients(
            1 - B1,
            0,
            1 - lr * WD,
            lr / (1 - B1**t) / (np.sqrt(v) / np.sqrt(1 - B2**t) + EPS),
        ),
    ),
    (
        pytorch_optimizer,
        lambda v, lr, t: Coefficients(
            (1 + B1 if t == 1 else 1) * _outside(v),
            (1 + B1 if t == 1 else 1) * WD,
            1,
            lr * np.sqrt(1 - B2**t) / (1 - B1**t),
        ),
    ),
    (
        openseq2seq,
        lambda v, lr, t: Coefficients((1 - B1) / np.sqrt(v + EPS), (1 - B1) * WD, 1, lr),
    ),
    (amsgrad, lambda v, lr, t: Coefficients(_outside(v), WD, 1, lr)),
]


@pytest.mark.parametrize(("peer", "scalars"), DIALECTS, ids=lambda x: x.__name__)
def test_every_published_variant_is_a_choice_of_scalars(peer, scalars):
    random = np.random.default_rng(0)
    start = random.standard_normal(6)
    theirs = (start, np.zeros(6), 0.0)
    w, m, v, largest = start, np.zeros(6), 0.0, 0.0
    for t in range(1, 6):
        g, lr = random.standard_normal(6), LR * 0.8**t
        theirs = peer(*theirs, g, lr, t)
        counts_from_zero = peer is flashlight
        no_history = (t == 1 and not counts_from_zero) or peer is openseq2seq
        v = rule.second_moment(g @ g, v, 0.0 if no_history else B2)
        largest = max(largest, v)
        used = largest if peer is amsgrad else v
        w, m = rule.linear_pass(w, m, g, scalars(used, lr, t), beta1=B1)
        np.testing.assert_allclose(w, theirs[0], rtol=1e-12)
        np.testing.assert_allclose(m, theirs[1], rtol=1e-12)
