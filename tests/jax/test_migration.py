"""On the page for those who change from optax: the code before and after trains the same."""

import jax
import numpy as np

from tests.helpers.examples import before_and_after


def test_the_weights_stay_the_same():
    before, after = before_and_after("optax.md")
    assert "novograd.jax" not in str(before["optimizer"].update)
    for old, new in zip(*map(jax.tree.leaves, (before["params"], after["params"])), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-6)
