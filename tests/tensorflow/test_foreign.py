"""Arguments of other optimizers are explained."""

import pytest

from novograd.tensorflow import NovoGrad


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("variant", "the documented class has the documented rule only"),
        ("nesterov", "give use_nesterov"),
        ("beta_2", "give beta2"),
        ("lr", "give learning_rate"),
    ],
)
def test_an_argument_of_another_optimizer_is_explained(argument, said):
    with pytest.raises(TypeError, match=f"^NovoGrad does not take {argument}: {said}"):
        NovoGrad(**{argument: "rows"})
