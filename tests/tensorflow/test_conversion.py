"""``novograd.checkpoint`` reads and writes checkpoints of TensorFlow."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from novograd import variants
from novograd.checkpoint import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    read,
    write,
)
from novograd.layers import Rows
from novograd.tensorflow import NovoGrad
from tests.helpers import loading

tf1 = tf.compat.v1
KERNEL = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Model:
    """Two weights in a variable scope, and their training in a session."""

    def __init__(self, dtype=np.float32, scope=""):
        self.graph = tf.Graph()
        with self.graph.as_default():
            with tf1.variable_scope("net/dense"):
                self.kernel = tf1.get_variable("kernel", initializer=KERNEL.astype(dtype))
                self.bias = tf1.get_variable("bias", initializer=np.ones(3, np.float32))
            optimizer = NovoGrad(0.1, layers=Rows())
            step = tf1.train.get_or_create_global_step()
            pairs = [(self.kernel * 2, self.kernel), (self.bias + 1, self.bias)]
            with tf1.variable_scope(scope):
                self.train = optimizer.apply_gradients(pairs, step)
            slots = ("momentum", "v")
            self.state = [optimizer.get_slot(w, s) for w in (self.kernel, self.bias) for s in slots]
            self.state += [self.kernel, self.bias, step]
            self.saver = tf1.train.Saver()
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())

    def save(self, path):
        for _ in range(3):
            self.session.run(self.train)
        with self.graph.as_default():
            self.saver.save(self.session, str(path))
        return self.session.run(self.state)

    def restore(self, path):
        with self.graph.as_default():
            self.saver.restore(self.session, str(path))
        return self.session.run(self.state)


def assert_same_bits(actual, expected):
    for x, y in zip(actual, expected, strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@pytest.mark.parametrize("dtype", [np.float32, tf.bfloat16.as_numpy_dtype, np.float64])
def test_a_checkpoint_of_a_saver_keeps_every_bit_after_reading_and_writing(tmp_path, dtype):
    expected = Model(dtype).save(tmp_path / "model")
    checkpoint = read(tmp_path, "tf1", weights=True)  # reads the latest checkpoint in the folder
    assert list(checkpoint.entries) == ["net/dense/bias", "net/dense/kernel"]
    assert checkpoint.step == 3
    (tmp_path / "new").mkdir()
    write(checkpoint, tmp_path / "new" / "model", "tensorflow")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["model.data-00000-of-00001", "model.index"]
    assert_same_bits(Model(dtype).restore(tmp_path / "new" / "model"), expected)


def test_slots_in_a_variable_scope_are_found(tmp_path):
    moment, v, *_ = Model(scope="training").save(tmp_path / "model")
    assert "training/net/dense/kernel/NovoGrad" in dict(tf.train.list_variables(str(tmp_path)))
    entry = read(tmp_path / "model", "tf1").entries["net/dense/kernel"]
    assert_same_bits([entry.moment, entry.v], [moment, v])


def test_an_object_based_checkpoint_is_read(tmp_path):
    w = tf.Variable(KERNEL)
    optimizer = NovoGrad(0.1)
    optimizer.apply_gradients([(tf.constant(2 * KERNEL), w)])
    path = tf.train.Checkpoint(w=w, optimizer=optimizer).save(str(tmp_path / "model"))
    (entry,) = read(path, "tf1", weights=True).entries.values()
    slots = [optimizer.get_slot(w, slot).numpy() for slot in ("momentum", "v")]
    assert_same_bits([entry.moment, entry.v, entry.weights], [*slots, w.numpy()])


def made(**entry):
    group = Group(("w",), Hyperparameters(lr=0.5))
    state = Entry(np.float32([3, 4]), np.float32(25), step=7)
    return Checkpoint({"w": replace(state, **entry)}, variants.DOCUMENTED, (group,))


def test_a_checkpoint_of_another_variant_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"'nvidia': give variant 'documented', and lr"):
        write(replace(made(), variant=variants.get("nvidia")), tmp_path / "new", "tensorflow")
    assert not list(tmp_path.iterdir())


def test_a_target_is_replaced_only_with_force(tmp_path):
    write(made(), tmp_path / "new", "tensorflow")
    with pytest.raises(FileExistsError, match=r"new\.index already exists"):
        write(made(v=np.float32(9)), tmp_path / "new", "tensorflow")
    assert read(tmp_path / "new", "tf1").entries["w"].v == 25
    write(made(v=np.float32(9)), tmp_path / "new", "tensorflow", force=True)
    assert read(tmp_path / "new", "tf1").entries["w"].v == 9


def save(path, **tensors):
    names = [name.replace("__", "/").replace("DOT", ".") for name in tensors]
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[np.float32(x) for x in tensors.values()],
    )


def test_files_with_other_content_are_refused(tmp_path):
    def wrong(kind, message, **tensors):
        save(tmp_path / "model", **tensors)
        with pytest.raises(CheckpointError, match=message) as error:
            read(tmp_path / "model", kind)
        assert str(tmp_path / "model") in str(error.value)

    w = {"w": [1, 2]}
    wrong("tf1", "no slots NAME/NovoGrad and NAME/NovoGrad_v", **w, w__Momentum=[1, 2])
    wrong("tf1", "no slots NAME/NovoGrad and NAME/NovoGrad_v", **w, w__NovoGrad2=[1, 2])
    slots = {"w__NovoGrad": [1, 2], "w__NovoGrad_v": np.ones((2, 2))}
    wrong("tf1", r"v of 'w' has shape \(2, 2\)", **w, **slots)
    wrong("openseq2seq", "no slots NAME/NovoGrad2", **w)
    both = {"w__NovoGrad2": [1, 2], "w__NovoGrad2_1": [1, 2]}
    wrong("openseq2seq", "slots of two optimizers, also 'w/NovoGrad2_1'", **w, **both)
    wrong("tfa", "no slots m and v", **w)
    slot = "w__DOTOPTIMIZER_SLOT__optimizer__{}__DOTATTRIBUTES__VARIABLE_VALUE".format
    wrong("tfa", "there is no slot 'v' of 'w'", **w, **{slot("m"): [1, 2]})


def test_a_checkpoint_of_addons_with_amsgrad_and_rate_decay_is_read(tmp_path):
    slot = "w__DOTOPTIMIZER_SLOT__optimizer__{}__DOTATTRIBUTES__VARIABLE_VALUE".format
    hyper = "optimizer__{}__DOTATTRIBUTES__VARIABLE_VALUE".format
    state = {slot("m"): [-3, 4], slot("v"): 25.0, slot("vhat"): [36, 36]}
    known = {hyper("learning_rate"): 0.5, hyper("decay"): 0.1, hyper("grad_averaging"): 1}
    save(tmp_path / "model", **state, **known, **{hyper("iter"): 7})
    checkpoint = read(tmp_path / "model", "tfa")
    entry = checkpoint.entries["w"]
    assert entry.moment.tolist() == [3, -4]
    assert (entry.v, entry.v_max, entry.step) == (25, 36, 7)
    assert (checkpoint.variant.name, checkpoint.variant.amsgrad) == ("tfa-amsgrad", True)
    known = checkpoint.groups[0].hyperparameters
    assert known == Hyperparameters(grad_averaging=True)


def test_truncated_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "model", "tf1")
    with pytest.raises(FileNotFoundError):
        read(tmp_path, "tf1")
    write(made(), tmp_path / "model", "tensorflow")
    for name in ("model.index", "model.data-00000-of-00001"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match="it is damaged"):
                read(tmp_path / "model", "tf1")
        (tmp_path / name).write_bytes(whole)


def test_the_printed_lines_load_the_file_and_a_full_disk_destroys_nothing(tmp_path, monkeypatch):
    loading.check_target("tensorflow", tmp_path, monkeypatch)
