"""Arguments of other optimizers are explained."""

import pytest

from novograd.keras import NovoGrad


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("amsgrad", "leave out False; for True give variant='nvidia-amsgrad'"),
        ("lr", "give learning_rate"),
        ("betas", "give beta_1"),
        ("use_nesterov", "give nesterov"),
    ],
)
def test_an_argument_of_another_optimizer_is_explained(argument, said):
    with pytest.raises(TypeError, match=f"^NovoGrad does not take {argument}: {said}"):
        NovoGrad(**{argument: True})


def test_keras_refuses_other_arguments():
    with pytest.raises(ValueError, match="speed"):
        NovoGrad(speed=3)
