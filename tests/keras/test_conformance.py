"""Every way to run the Keras class on this backend, through every case of the table."""

import keras
import pytest

from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.cases import DTYPES
from novograd.conformance.keras import ADAPTERS, ApplyAdapter, StatelessApplyAdapter

BACKEND = keras.backend.backend()


# Of the hyperparameters only the learning rate is a variable: a compiled function keeps the others.
# The products of flags take seconds to compile, and only choose among lines of Python.
COMPILABLE = [case for case in CASES if not case.name.startswith(("full schedule", "decay,"))]
# XLA compiles for seconds. These cases are those that depend on how it computes.
NUMERICAL = [case for case in CASES if case.name in DTYPES or "gradients of" in case.name]

RUNS = [
    (adapter, case, name)
    for case in (*CASES, *VARIANT_CASES)
    for name, adapter in ADAPTERS.items()
    if case in CASES or adapter is ApplyAdapter
]
# A count that is traced, and no other number that a compiled function keeps.
COMPILABLE_VARIANTS = [case for case in VARIANT_CASES if case.name == "variant apex"]


class Compiled:
    """One compiled function for each set of layers with gradients."""

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

    RUNS += [(Function, case, "tf.function") for case in (*COMPILABLE, *COMPILABLE_VARIANTS)]
    RUNS += [(CompiledFunction, case, "tf.function, XLA") for case in NUMERICAL]
elif BACKEND == "jax":
    import jax

    class Jitted(Compiled, StatelessApplyAdapter):
        def _updated(self, state, gradients, weights):
            return self._compiled(super()._updated, gradients)(state, gradients, weights)

        def _compile(self, function):
            # A function of its own: jit remembers the traces of one that it has seen.
            return jax.jit(lambda *arguments: function(*arguments))

    RUNS += [(Jitted, case, "stateless_apply, jit") for case in (*COMPILABLE, *COMPILABLE_VARIANTS)]


@pytest.mark.parametrize(
    ("adapter", "case"),
    [pytest.param(adapter, case, id=f"{case.name}-{name}") for adapter, case, name in RUNS],
)
def test_conformance(adapter, case):
    check(adapter, case)


def test_the_formula_is_the_rules(wrong_rule):
    """A wrong rule makes the class wrong: it holds no second copy of the coefficients."""
    if BACKEND == "jax":
        jax.clear_caches()  # of steps compiled with the right rule
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(ApplyAdapter, CASES[0])
    if BACKEND == "jax":
        jax.clear_caches()
