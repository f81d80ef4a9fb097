"""On the page for those who change from optax: the code before and after trains the same."""

import jax
import numpy as np

from tests.helpers.examples import BLOCKS, before_and_after


def test_the_weights_stay_the_same():
    before, after = before_and_after("optax.md")
    assert "novograd.jax" not in str(before["optimizer"].update)
    for old, new in zip(*map(jax.tree.leaves, (before["params"], after["params"])), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-6)


def test_a_state_of_optax_is_continued_in_the_program():
    (block,) = (code for page, code in BLOCKS["jax"] if page == "optax.md" and "last" in code)
    found = {}
    exec(compile(block, "optax.md", "exec"), found)
    params, state = found["params"], found["last"]
    expected, _ = found["before"].update(params, state, params)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found["updates"], expected
    )
