"""Arguments of other optimizers and frameworks that are missing are explained."""

import os
import re
import subprocess
import sys

import pytest

from novograd.foreign import INSTEAD, explains_arguments, naming_extra
from novograd.variants import BY_NAME

# The module that is imported, the package that is not installed, and its extra.
MISSING = [
    ("torch", "torch", "torch"),
    ("jax", "jax", "jax"),
    ("jax", "optax", "jax"),
    ("keras", "keras", "keras"),
    ("keras", "jax", "jax"),  # the backend of Keras
    ("tensorflow", "tensorflow", "tensorflow"),
]


@pytest.mark.parametrize(("module", "package", "extra"), MISSING)
def test_a_missing_framework_says_what_to_install(module, package, extra):
    program = f"import sys; sys.modules[{package!r}] = None; import novograd.{module}"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    said = f"the package '{package}' is not installed: pip install \"novograd-optimizer[{extra}]\""
    assert done.stderr.rstrip().endswith(said)


def test_another_missing_module_keeps_its_error():
    error = ModuleNotFoundError("No module named 'numpy'", name="numpy")
    with pytest.raises(ModuleNotFoundError) as caught, naming_extra():
        raise error
    assert caught.value is error


def test_the_explanations_name_variants_that_exist():
    text = " ".join(INSTEAD.values())
    named = re.findall(r"(?:variant=|get\()'([^']+)'|or '([^']+)'", text)
    assert len(named) > 5
    assert {one or other for one, other in named} <= {*BY_NAME}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("learning_rate", "give lr"),
        ("beta_1", "give betas"),
        ("epsilon", "give eps"),
        ("amsgrad", "for True give variant='nvidia-amsgrad'"),
    ],
)
def test_an_argument_of_another_optimizer_is_explained(name, said):
    @explains_arguments
    def optimizer(lr, betas=(), eps=1, **others): ...

    with pytest.raises(TypeError, match=f"optimizer does not take {name}: .*{said}"):
        optimizer(1, **{name: 1})


def test_known_and_unknown_arguments_go_to_the_function():
    @explains_arguments
    def optimizer(amsgrad=False, **others):
        return amsgrad, others

    assert optimizer(amsgrad=True, speed=3) == (True, {"speed": 3})
