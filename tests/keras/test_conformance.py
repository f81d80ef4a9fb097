"""Every adapter of the Keras class on this backend passes the cases of the conformance table."""

import keras
import pytest

from novograd.conformance import CASES, MOMENT_CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.keras import ADAPTERS, ApplyAdapter, StatelessApplyAdapter
from tests.helpers.conformance import checks

BACKEND = keras.backend.backend()


class Compiled:
    """Has one compiled function for each set of layers with gradients."""

    def _build(self, weights):
        super()._build(weights)
        self._functions = {}

    def _compiled(self, function, gradients):
        present = tuple(g is not None for g in gradients)
        if present not in self._functions:
            self._functions[present] = self._compile(function)
        return self._functions[present]


if BACKEND == "tensorflow":
    import tensorflow as tf

    class Function(Compiled, ApplyAdapter):
        jit_compile = False

        def _apply(self, gradients):
            self._compiled(super()._apply, gradients)(gradients)

        def _compile(self, function):
            return tf.function(function, jit_compile=self.jit_compile, autograph=False)

    class CompiledFunction(Function):
        jit_compile = True

    COMPILED = {"tf.function": Function, "tf.function, XLA": CompiledFunction}
elif BACKEND == "jax":
    import jax

    class Jitted(Compiled, StatelessApplyAdapter):
        def _updated(self, state, gradients, weights):
            return self._compiled(super()._updated, gradients)(state, gradients, weights)

        def _compile(self, function):
            # The lambda is new each time: jit would reuse its traces of a function that it knows.
            return jax.jit(lambda *arguments: function(*arguments))

    COMPILED = {"stateless_apply, jit": Jitted}
else:
    COMPILED = {}

# The backends share the code of the rule. On PyTorch, all cases are cheap and always run.
SLOW = [name for name in ADAPTERS if name != "apply" or BACKEND != "torch"]
VARIANTS = None if BACKEND == "torch" else ["apex"]
MOMENTS = [] if BACKEND == "jax" else MOMENT_CASES
CHECKS = checks(ADAPTERS, [*CASES, *MOMENTS, *VARIANT_CASES], SLOW, VARIANTS)
# Eagerly, JAX compiles each operation, which takes half a minute. The compiled adapter is enough.
CHECKS += [
    pytest.param(adapter, case, id=f"{case.name}-{name}", marks=pytest.mark.full)
    for case in MOMENT_CASES
    if case not in MOMENTS
    for name, adapter in ADAPTERS.items()
]
# Only the learning rate is a variable: a compiled function keeps the other hyperparameters.
COMPILABLE = [case for case in CASES if case.name != "full schedule"]
# Of the variants, apex has a count, which is traced.
CHECKS += checks(
    COMPILED, [*COMPILABLE, *MOMENT_CASES, *VARIANT_CASES], COMPILED, variants=["apex"]
)


@pytest.mark.parametrize(("adapter", "case"), CHECKS)
def test_the_adapter_passes_the_case(adapter, case):
    check(adapter, case)


def test_the_class_uses_the_formula_of_the_rule(wrong_rule):
    """A wrong rule makes the class wrong: it has no second copy of the coefficients."""
    if BACKEND == "jax":
        jax.clear_caches()  # drop steps that were compiled with the right rule
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(ApplyAdapter, CASES[0])
    if BACKEND == "jax":
        jax.clear_caches()
