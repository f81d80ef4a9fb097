"""Arguments of other optimizers are explained."""

import inspect

import optax
import pytest

from novograd.jax import novograd, scale_by_novograd


@pytest.mark.parametrize("function", [novograd, scale_by_novograd])
@pytest.mark.parametrize(
    ("argument", "said"),
    [("eps_root", "a second epsilon"), ("beta1", "give b1"), ("amsgrad", "nvidia-amsgrad")],
)
def test_an_argument_of_another_optimizer_is_explained(function, argument, said):
    with pytest.raises(TypeError, match=f"^{function.__name__} does not take {argument}: .*{said}"):
        function(**{argument: 0.1})


def test_every_argument_of_optax_is_taken_or_explained():
    others = {*inspect.signature(optax.novograd).parameters} - {
        *inspect.signature(novograd).parameters
    }
    assert others == {"eps_root"}
