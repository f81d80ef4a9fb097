"""Public objects can be copied and pickled wherever TensorFlow's own optimizers can."""

import tensorflow as tf

from novograd.tensorflow import NovoGrad
from tests.helpers.copies import Case, assert_survives_what_its_control_does


def test_public_objects_survive_every_copy_that_momentum_survives():
    def step(optimizer, variable):
        optimizer.apply_gradients([(tf.constant([3.0, 4.0]), variable)])
        return optimizer

    def does(optimizer):
        variable = tf.Variable([1.0, 2.0])
        step(optimizer, variable)
        step(optimizer, variable)
        # The slots of different variables may have equal names, so their order may change.
        slots = sorted(str(slot.numpy()) for slot in optimizer.variables())
        return type(optimizer), str(variable.numpy()), slots

    def trained(make):
        return lambda: step(make(), tf.Variable([1.0, 2.0]))

    def ours():
        return NovoGrad(0.1)

    def momentum():
        return tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)

    cases = {
        "NovoGrad": Case(ours, does, momentum),
        "NovoGrad after a step": Case(trained(ours), does, trained(momentum)),
    }
    assert_survives_what_its_control_does(cases)
