"""Public objects that need no framework can be copied and pickled."""

from novograd import variants
from novograd.compare import Segmentation, Task
from novograd.layers import Rows, Split, Stacked
from tests.helpers.copies import Case, assert_survives_what_its_control_does


def test_public_objects_can_be_copied_and_pickled():
    task = dict.fromkeys(("model", "batches", "test", "loss", "metric"), len)
    made = [
        Stacked((0, 1)),
        Split((2, 3), axis=1),
        Rows(axes=0, scale="rms"),
        variants.get("optax"),
        Task(**task, learning_rates={"adam": 0.1}),
        Segmentation(1, 2, 3, ("a",)),
    ]
    cases = {type(one).__name__: Case(lambda one=one: one, lambda x: (type(x), x)) for one in made}
    assert_survives_what_its_control_does(cases)
