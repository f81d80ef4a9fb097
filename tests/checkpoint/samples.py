"""A checkpoint that has every possible content, and a comparison of checkpoints."""

from dataclasses import replace

import ml_dtypes
import numpy as np

from novograd import variants
from novograd.checkpoint import Checkpoint, Entry, Group, Hyperparameters

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


def made(variant="documented", weights=True, dtypes=DTYPES):
    """Returns a checkpoint of weights with several dtypes and kinds of layers, in two groups."""
    random = np.random.default_rng(0)
    variant = variants.get(variant)

    def array(shape, dtype=np.float32):
        return np.asarray(random.standard_normal(shape), dtype)

    entries = {}
    for number, dtype in enumerate(dtypes):
        wide = np.float64 if dtype == np.float64 else np.float32
        for name, shape, v_shape in (
            ("kernel", (3, 4), ()),
            ("rows", (3, 2, 2), (3, 1, 1)),
            ("none", (0, 3), (0, 1)),
            ("gain", (), ()),
        ):
            entries[f"block{number}/{name}"] = Entry(
                array(shape, dtype),
                array(v_shape, wide) ** 2,
                array(v_shape, wide) ** 2 + 1 if variant.amsgrad else None,
                step=12,
                weights=array(shape, dtype) if weights else None,
            )
    names = tuple(entries)
    known = Hyperparameters(
        lr=0.1,
        beta1=0.9,
        beta2=0.3,
        epsilon=1e-7,
        weight_decay=0.01,
        grad_averaging=True,
        nesterov=False,
    )
    groups = (Group(names[:5], known), Group(names[5:], replace(known, weight_decay=0.0)))
    return Checkpoint(entries, variant, groups)


def assert_same_bits(actual, expected, parts=("moment", "v", "v_max", "step", "weights")):
    assert list(actual.entries) == list(expected.entries)
    for name, entry in expected.entries.items():
        for part in parts:
            x, y = getattr(actual.entries[name], part), getattr(entry, part)
            if isinstance(y, np.ndarray):
                assert x.dtype == y.dtype, (name, part)
                assert x.shape == y.shape, (name, part)
                assert x.tobytes() == y.tobytes(), (name, part)
            else:
                assert x == y, (name, part)
