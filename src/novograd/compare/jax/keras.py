"""Keras models in JAX."""

from typing import Any

import keras

from novograd.compare.jax.model import Model


def converted(model: Any, _: int) -> Model:
    """Returns a Keras model as arrays and a function."""
    variables = model.trainable_variables

    def call(weights: Any, others: Any, inputs: Any, training: bool) -> tuple[Any, Any]:
        # JAX sorts dictionaries; the model needs the order of its variables.
        values = [weights[v.path][v.name] for v in variables]
        return model.stateless_call(values, others, inputs, training=training)

    return Model(
        weights={v.path: {v.name: v.value} for v in variables},
        others=[v.value for v in model.non_trainable_variables],
        call=call,
        versions={"keras": keras.__version__},
    )
