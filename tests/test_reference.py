"""The oracle agrees with numbers computed by hand, and shares no code with the rule."""

import ast
from pathlib import Path

import numpy as np
import pytest

from novograd import reference

DOCUMENTED = {
    "learning_rate": 1.0,
    "beta1": 0.95,
    "beta2": 0.98,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "grad_averaging": False,
    "nesterov": False,
}

# Gradients (3, 4) and then (0, 10), weights (1, 2), lr 0.5, beta1 0.9, beta2 0.75, epsilon 0 or as
# given. Norms: 25 and 100; v_1 = 25, v_2 = 0.75*25 + 0.25*100 = 43.75, sqrt = 6.614378277661476.
#
# Plain: m_1 = 0.5*(0.6, 0.8) = (0.3, 0.4), w_1 = (0.7, 1.6);
#        m_2 = 0.9*(0.3, 0.4) + 0.5*(0, 10/6.6143783) = (0.27, 0.36 + 0.7559289460), and so on.
# Decay 0.1, averaging (k = 0.1):
#        m_1 = 0.05*((0.6, 0.8) + 0.1*(1, 2)) = (0.035, 0.05), w_1 = (0.965, 1.95);
#        m_2 = 0.9*m_1 + 0.05*((0, 1.5118578920) + (0.0965, 0.195)) = (0.036325, 0.1303428946).
# Nesterov: w_1 = w_0 - (0.9*m_1 + 0.5*(0.6, 0.8)) = (1, 2) - (0.57, 0.76) = (0.43, 1.24);
#        w_2 = w_1 - (0.9*m_2 + (0, 0.7559289460)) = (0.43 - 0.243, 1.24 - 1.7602649974).
# Epsilon 11 inside the root: sqrt(25 + 11) = 6, sqrt(43.75 + 11) = 7.399324293474371:
#        m_1 = (0.25, 1/3), m_2 = (0.225, 0.3 + 0.6757373784).
# Clip 1: the second norm is 10, as 100 > 43.75; m_2 = (0.27, 0.36 + 0.5), w_2 = (0.7, 1.6) - m_2.
# Clip 1/2: the norms are 10 and 20. m_1 = (0.15, 0.2), m_2 = (0.135, 0.18 + 0.25).
BY_HAND = [
    ({}, (0.43, 0.484071054), (0.27, 1.115928946)),
    (
        {"weight_decay": 0.1, "grad_averaging": True},
        (0.928675, 1.8196571054),
        (0.036325, 0.1303428946),
    ),
    ({"nesterov": True}, (0.187, -0.5202649974), (0.27, 1.115928946)),
    ({"epsilon": 11.0}, (0.525, 0.690929288233), (0.225, 0.9757373784)),
    ({"clip": 1.0}, (0.43, 0.74), (0.27, 0.86)),
    ({"clip": 0.5}, (0.715, 1.37), (0.135, 0.43)),
]


@pytest.mark.parametrize(("changes", "weights", "moment"), BY_HAND)
def test_two_steps_equal_those_computed_by_hand(changes, weights, moment):
    settings = DOCUMENTED | {"learning_rate": 0.5, "beta1": 0.9, "beta2": 0.75, "epsilon": 0.0}
    w, m, v = [1.0, 2.0], [0.0, 0.0], 0.0
    for gradient, squared in (([3.0, 4.0], 25.0), ([0.0, 10.0], 43.75)):
        w, m, v = reference.step(w, m, v, gradient, **settings | changes)
        assert v == squared
    np.testing.assert_allclose(w, weights, rtol=1e-9)
    np.testing.assert_allclose(m, moment, rtol=1e-9)


def test_history_starts_at_the_first_gradient_that_is_not_zero():
    w, m, v = reference.step([1.0], [0.0], 0.0, [0.0], **DOCUMENTED)
    assert (float(w[0]), float(m[0]), float(v)) == (1.0, 0.0, 0.0)
    _, _, v = reference.step(w, m, v, [3.0], **DOCUMENTED)
    assert v == 9.0


def test_the_oracle_shares_no_code_with_the_rule():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert modules == {"collections.abc", "numpy", "numpy.typing", "typing"}


def test_inputs_are_not_changed():
    inputs = [np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array(3.0), np.array([1.0, 1.0])]
    copies = [x.copy() for x in inputs]
    reference.step(*inputs, **DOCUMENTED)
    for x, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(x, copy)
