"""Public objects can be copied and pickled wherever Keras's own optimizers can."""

import keras
import numpy as np

from novograd.keras import NovoGrad
from tests.helpers.copies import Case, assert_survives_what_its_control_does


def test_public_objects_survive_every_copy_that_adam_survives():
    def does(optimizer):
        variable = keras.Variable(np.float32([1.0, 2.0]))
        optimizer.apply([keras.ops.convert_to_tensor(np.float32([3.0, 4.0]))], [variable])
        values = [keras.ops.convert_to_numpy(x) for x in (variable, *optimizer.variables)]
        return type(optimizer), str(values), str(optimizer.get_config())

    def ours():
        return NovoGrad(0.1, weight_decay=0.01, name="ours")

    def adam():
        return keras.optimizers.Adam(0.1, weight_decay=0.01, name="adam")

    # No case takes a step first: copies of Keras's own optimizers lose their state.
    assert_survives_what_its_control_does({"NovoGrad": Case(ours, does, adam)})
