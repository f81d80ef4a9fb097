"""The optimizers that ``novograd bench`` measures in this framework can take steps."""

from novograd import native
from novograd.bench import tensorflow as bench
from novograd.bench.timing import BOUND


def test_every_step_can_be_repeated():
    makers, left_out = bench.steps([(3, 4), (5,)])
    assert left_out == {}
    assert {bench.REFERENCE, bench.AGAIN, "NovoGrad"} <= set(makers)
    assert (BOUND in makers) == (native.PROBLEM is None)
    for make in makers.values():
        step = make()
        for turn in range(2):
            step.prepare(turn)
            step.run(turn)
    assert bench.BYTES.keys() <= makers.keys() | {BOUND}
    assert bench.threads() >= 1
