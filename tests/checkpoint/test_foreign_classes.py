"""Files of ``torch.save`` with objects of any class.

``read`` needs only the optimizer's state, and perhaps the weights. It ignores everything else, and
does not run any code from the file.
"""

import copyreg
import encodings.raw_unicode_escape  # noqa: F401  decodes text of protocol 0
import io
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from novograd import cli
from novograd.checkpoint import CheckpointError, pickles, read, write
from tests.checkpoint import hostile

LIGHTNING = """
import argparse, collections, pathlib, sys, warnings
warnings.simplefilter("ignore")
import gone, lightning, numpy, torch
from novograd.torch import NovoGrad

class Net(lightning.LightningModule):
    def __init__(self, **settings):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, _):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = NovoGrad(self.named_parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

settings = {
    "data": gone.Data(),
    "args": argparse.Namespace(width=3, root=pathlib.Path("/data")),
    "path": pathlib.Path("/logs"),
    "config": gone.DictConfig(width=3),
    "list": gone.ListConfig([1, 2]),
    "named": gone.Named(width=3),
    "strange": gone.Strange(),
    "types": [int, gone.Data, collections.defaultdict(list, a=[1]), frozenset([1]), len],
    "numpy": [numpy.ones(3), numpy.float64(3), numpy.random.default_rng(0)],
}
data = torch.utils.data.TensorDataset(torch.ones(8, 3))
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Net(**settings), torch.utils.data.DataLoader(data, batch_size=4))
trainer.save_checkpoint("last.ckpt")
content = torch.load("last.ckpt", weights_only=False)
assert isinstance(content["hyper_parameters"]["config"], gone.DictConfig)
torch.save(content, "old.ckpt", _use_new_zipfile_serialization=False)
torch.save(content, "protocol.ckpt", pickle_protocol=4)
plain = {"optimizer": content["optimizer_states"][0], "model": content["state_dict"]}
torch.save(plain, "plain.pt")
"""
GONE = """
import dataclasses, enum, pathlib
pathlib.Path(__file__).with_name("imported").touch()

class Kind(enum.Enum):
    A = 1

class Outer:
    class Inner(enum.Enum):
        B = 2

@dataclasses.dataclass
class Data:
    width: int = 3
    kinds: tuple = (Kind.A, Outer.Inner.B)

class DictConfig(dict):
    def __init__(self, **content):
        super().__init__(**content)
        self._metadata = Data()

    def __setstate__(self, state):
        vars(self).update(state)

class ListConfig(list):
    pass

class Named:
    def __new__(cls, *, width):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"width": 3}

class Strange:
    def __reduce__(self):
        return Strange, (), None, iter([1, 2]), iter([(Kind.A, 2)])

    def append(self, item):
        pass

    __setitem__ = __call__ = lambda self, *_: self
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with checkpoints of Lightning and the module that defines their classes."""
    folder = tmp_path_factory.mktemp("lightning")
    (folder / "gone.py").write_text(GONE)
    (folder / "main.py").write_text(LIGHTNING)
    done = subprocess.run([sys.executable, "main.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "imported").unlink()
    return folder


def convert(*arguments):
    return CliRunner().invoke(cli.app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize("importable", [False, True])
@pytest.mark.parametrize("name", ["last.ckpt", "old.ckpt", "protocol.ckpt"])
def test_a_checkpoint_of_lightning_may_contain_settings_of_any_class(
    trained, tmp_path, monkeypatch, name, importable
):
    if importable:
        monkeypatch.syspath_prepend(trained)
    way = "--from", "torch", "--to", "torch", "--weights"
    for source, target in ((name, "target"), ("plain.pt", "expected")):
        result = convert(trained / source, tmp_path / target, *way)
        assert result.exit_code == 0, result.output
        assert "layer" not in result.output
    target, expected = (torch.load(tmp_path / x, weights_only=True) for x in ("target", "expected"))
    groups, state = (target["optimizer"].pop(part) for part in ("param_groups", "state"))
    assert groups == expected["optimizer"]["param_groups"]
    torch.testing.assert_close(state, expected["optimizer"]["state"], rtol=0, atol=0)
    torch.testing.assert_close(target["model"], expected["model"], rtol=0, atol=0)
    assert target["model"]["layer.weight"].shape == (1, 3)
    assert groups[0]["initial_lr"] == 0.1
    assert not (trained / "imported").exists()
    assert "gone" not in sys.modules


def group(**more):
    known = {"lr": 0.1, "betas": (0.9, 0.5), "eps": 1e-8, "weight_decay": 0.1}
    return {**known, "grad_averaging": False, "params": [0], **more}


def content(more=None, **state):
    state = {"step": 1, "exp_avg": torch.ones(3), "exp_avg_sq": torch.tensor(4.0), **state}
    return {"state": {0: state}, "param_groups": [group(**(more or {}))]}


class Unknown:
    """A class that is not plain data."""


NAME = f"{__name__}.Unknown"


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"optimizer": Unknown()}, "optimizer is of"),
        ({"optimizer_states": [Unknown()]}, r"optimizer_states\[0\] is of"),
        ({"optimizer": content() | {"state": Unknown()}}, r"optimizer\['state'\] is of"),
        (
            {"optimizer": content(exp_avg=Unknown())},
            r"optimizer\['state'\]\[0\]\['exp_avg'\] is of",
        ),
        ({"optimizer": content(step=Unknown())}, r"optimizer\['state'\]\[0\]\['step'\] is of"),
        (
            {"optimizer": content({"betas": (0.9, Unknown())})},
            r"optimizer\['param_groups'\]\[0\]\['betas'\]\[1\] is of",
        ),
        (
            {"optimizer": content({"lr": Unknown})},
            r"optimizer\['param_groups'\]\[0\]\['lr'\] is of",
        ),
        ({"optimizer": content(), "model": Unknown()}, "model is of"),
        ({"optimizer": content(), "model": {"0": Unknown()}}, r"model\['0'\] is of"),
        (Unknown(), "the content is of"),
    ],
)
@pytest.mark.parametrize("archive", [True, False])
def test_needed_content_of_an_unknown_class_is_refused(tmp_path, wrong, where, archive):
    torch.save(wrong, tmp_path / "file", _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match=f"{where} '{NAME}', which was not executed"):
        read(tmp_path / "file", "nemo", weights=True)


def test_other_content_may_be_of_any_class(tmp_path):
    others = {"model": {"0": torch.ones(3), "extra": Unknown()}, "callbacks": [Unknown()]}
    optimizer = content(other=Unknown())
    for archive in (True, False):
        file = {"optimizer": optimizer, **others, Unknown: Unknown()}
        torch.save(file, tmp_path / "file", _use_new_zipfile_serialization=archive)
        (entry,) = read(tmp_path / "file", "nemo", weights=True).entries.values()
        assert entry.weights.tolist() == [1, 1, 1]


class Net(torch.nn.Module):
    """Old files contain the class and the source code of a module in addition to the pickle."""


@pytest.mark.filterwarnings("ignore:.*ource")
def test_a_whole_module_in_the_file_is_ignored(tmp_path):
    for archive in (True, False):
        file = {"optimizer": content(), "net": Net(), "state_dict": {"0": torch.ones(3)}}
        torch.save(file, tmp_path / "file", _use_new_zipfile_serialization=archive)
        assert read(tmp_path / "file", "nemo", weights=True).step == 1


def test_tensors_of_every_kind_are_read(tmp_path):
    whole = torch.arange(24.0).reshape(2, 3, 4)
    real, imaginary = torch.randn(3), torch.randn(3, dtype=torch.complex64)
    moments = {
        "view": whole[1, :, 1:3].T,
        "expanded": torch.ones(1).expand(3),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(whole),
        "half": real.half(),
        "bfloat16": real.bfloat16(),
        "double": real.double(),
        "complex": imaginary,
        "conjugated": imaginary.conj(),
        "negated": imaginary.conj().imag,
        "attributes": torch.ones(3),
    }
    moments["attributes"].tag = Unknown()
    numbers = {
        "lr": np.float64(0.5),
        "eps": np.float32(0.25),
        "weight_decay": torch.tensor(2.0),
    }
    for number, moment in enumerate(moments.values()):
        optimizer = content(numbers, exp_avg=moment, step=np.int64(number))
        optimizer["state"] = OrderedDict(optimizer["state"])
        for archive in (True, False):
            torch.save(optimizer, tmp_path / "file", _use_new_zipfile_serialization=archive)
            checkpoint = read(tmp_path / "file", "timm")
            actual = checkpoint.entries["0"].moment
            expected = moment.detach().resolve_conj().resolve_neg()
            assert actual.shape == expected.shape
            assert np.array_equal(actual.astype("c16"), expected.to(torch.complex128).numpy())
            known = checkpoint.groups[0].hyperparameters
            assert (checkpoint.step, known.lr, known.epsilon) == (number, 0.5, 0.25)


# -- attacks -------------------------------------------------------------------------------------


class Watch:
    """Fails if watched audit events (PEP 578) or imports occur inside the ``with`` block."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self.note)

    def note(self, event, arguments):
        watched = (
            "import",
            "exec",
            "compile",
            "pickle.find_class",
            "marshal.loads",
            "ctypes.dlopen",
        )
        prefixes = ("os.", "subprocess.", "shutil.", "socket.", "object.__setattr__", "code.")
        written = event == "open" and arguments[1] not in (None, "r", "rb")
        if self.seen is not None and (event in watched or event.startswith(prefixes) or written):
            self.seen.append((event, arguments))

    def __enter__(self):
        self.seen, self.modules = [], set(sys.modules)

    def __exit__(self, *_):
        seen, self.seen = self.seen, None
        assert not seen
        assert set(sys.modules) == self.modules


WATCH = Watch()


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The path of a file that appears if the module ``canary`` is imported or called."""
    path = tmp_path / "executed"
    touch = f"import pathlib\npathlib.Path({str(path)!r}).touch()\n"
    touching = "def touch(*_, **__):\n    pathlib.Path({!r}).touch()\nclass Touches:\n"
    methods = "    __init__ = __new__ = __setstate__ = append = __setitem__ = touch\n"
    (tmp_path / "canary.py").write_text(touch + touching.format(str(path)) + methods)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    assert not path.exists()


def archive(data, records=()):
    """Returns a file of torch.save with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, record in {"version": b"3\n", "data.pkl": data, **dict(records)}.items():
            file.writestr(f"archive/{name}", record)
    return buffer.getvalue()


def saved(value):
    """Returns the records of a file of torch.save."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def attempt(path):
    """Reads a file and returns the checkpoint or the CheckpointError."""
    try:
        return read(path, "nemo", weights=True)
    except CheckpointError as error:
        return error


def rest(records):
    return {name: data for name, data in records.items() if name != "data.pkl"}


def test_attacks_outside_the_state_have_no_effect(tmp_path, canary):
    records = saved({"optimizer": content(), "model": {"0": torch.ones(3)}})
    pickled, path = records["data.pkl"], tmp_path / "file"
    assert pickled.endswith(b"u.")
    results = []
    path.write_bytes(archive(pickled, rest(records)))
    attempt(path)  # makes all imports that reading needs
    for attack in hostile.attacks(hostile.ROOTS, canary):
        # The same file with one more entry, which is put into the dict before the end.
        data = pickled[:-1] + hostile.text("hyper_parameters") + attack + pickle.SETITEM + b"."
        path.write_bytes(archive(data, rest(records)))
        with WATCH:
            results.append(attempt(path))
    # Invalid pickles are refused. Most attacks are read as records of calls that were not made.
    read_whole = [x for x in results if not isinstance(x, Exception)]
    assert len(read_whole) > len(results) / 2
    assert all(x.entries["0"].weights.tolist() == [1, 1, 1] for x in read_whole)


def test_attacks_instead_of_the_state_are_refused(tmp_path, canary):
    path = tmp_path / "file"
    for attack in hostile.attacks(hostile.ROOTS, canary):
        optimizer = pickle.EMPTY_DICT + hostile.text("optimizer") + attack + pickle.SETITEM + b"."
        for data in (attack + b".", optimizer):
            path.write_bytes(archive(data))
            with WATCH:
                assert isinstance(attempt(path), CheckpointError)


def test_names_of_system_functions_are_refused_everywhere(tmp_path, canary):
    path = tmp_path / "file"
    for attack in hostile.attacks(hostile.REFUSED, canary):
        optimizer = pickle.EMPTY_DICT + hostile.text("other") + attack + pickle.SETITEM + b"."
        path.write_bytes(archive(optimizer))
        with WATCH:
            error = attempt(path)
        assert "it contains " in str(error) or "it is damaged" in str(error)


def test_extensions_are_not_looked_up(tmp_path, canary):
    ran = []
    copyreg.add_extension(__name__, "Unknown", hostile.EXTENSION)
    copyreg._extension_cache[hostile.EXTENSION] = ran.append
    try:
        for attack in hostile.extensions():
            (tmp_path / "file").write_bytes(archive(attack + b"."))
            with WATCH:
                assert isinstance(attempt(tmp_path / "file"), CheckpointError)
    finally:
        copyreg.remove_extension(__name__, "Unknown", hostile.EXTENSION)
    assert not ran


def test_short_files_cannot_request_much_memory(tmp_path):
    for data in (
        pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff.",
        pickle.BYTEARRAY8 + b"\xff\xff\xff\xff\x0f\x00\x00\x00.",
        pickle.BINBYTES8 + b"\xff\xff\xff\xff\x0f\x00\x00\x00.",
    ):
        (tmp_path / "file").write_bytes(archive(data))
        assert isinstance(attempt(tmp_path / "file"), CheckpointError)


@pytest.mark.parametrize(
    "nested",
    [
        pickle.EMPTY_TUPLE + 200_000 * pickle.TUPLE1,
        pickle.EMPTY_TUPLE + 60 * (pickle.DUP + pickle.TUPLE2),
    ],
    ids=["deep", "wide"],
)
@pytest.mark.parametrize("ways", range(5))
def test_keys_that_are_nested_too_deeply_are_refused(nested, ways):
    data = (
        pickle.EMPTY_DICT + nested + pickle.NONE + pickle.SETITEM,
        pickle.EMPTY_DICT + pickle.MARK + nested + pickle.NONE + pickle.SETITEMS,
        pickle.MARK + nested + pickle.NONE + pickle.DICT,
        pickle.EMPTY_SET + pickle.MARK + nested + pickle.ADDITEMS,
        pickle.MARK + nested + pickle.FROZENSET,
    )[ways]
    with pytest.raises(CheckpointError, match="nested too deeply"):
        pickles.load(io.BytesIO(data + b"."))


def damaged(chance, data, pieces, most=6):
    """Returns a pickle with some bytes changed, removed or repeated, or with pieces of others."""
    data = bytearray(data)
    for _ in range(chance.randint(1, most)):
        start = chance.randrange(len(data))
        end = start + chance.choice((0, 1, 1, 2, 8))
        new = chance.choice(
            (
                bytes([chance.randrange(256)]),
                chance.choice(pieces),
                data[start : start + chance.randint(1, 20)] * 2,
                b"",
            )
        )
        data[start:end] = new
    return bytes(data)


def test_damaged_and_hostile_pickles_run_no_code(tmp_path, canary, pytestconfig):
    chance = random.Random(0)
    pickle_count, file_count = (6000, 1500) if pytestconfig.getoption("full") else (1500, 300)
    optimizer = content({"name": "decayed"}) | {"more": [OrderedDict(a=Unknown()), {1.5, None}]}
    whole = {"optimizer": optimizer, "model": {"0": torch.ones(3)}}
    records = saved(whole)
    pieces = [*hostile.attacks(hostile.ROOTS, canary), *hostile.extensions()]
    pieces += [bytes([opcode]) for opcode in pickle._Unpickler.dispatch]
    path = tmp_path / "file"
    before = {name: dict(vars(kind)) for name, kind in vars(pickles).items() if type(kind) is type}
    plain = [records["data.pkl"], *(pickle.dumps(optimizer["more"], n) for n in range(6))]
    for data in plain:
        attempt_pickle(data)
    loaded = 0
    for _ in range(pickle_count):
        data = damaged(chance, chance.choice(plain), pieces)
        with WATCH:
            loaded += attempt_pickle(data)
    assert loaded > pickle_count / 20
    fine = 0
    for _ in range(file_count):
        path.write_bytes(archive(damaged(chance, plain[0], pieces, most=2), rest(records)))
        with WATCH:
            fine += not isinstance(attempt(path), Exception)
    assert fine > file_count / 30
    after = {name: dict(vars(kind)) for name, kind in vars(pickles).items() if type(kind) is type}
    assert before == after


def attempt_pickle(data):
    """Returns whether a pickle can be read. Any error must be a CheckpointError."""
    try:
        pickles.load(io.BytesIO(data))
    except CheckpointError:
        return False
    return True


def test_the_command_does_not_show_a_traceback(tmp_path, canary):
    path = tmp_path / "file"
    for attack in hostile.attacks([("canary", "touch"), ("os", "system")], canary):
        path.write_bytes(archive(attack + b"."))
        result = convert(path, tmp_path / "target", "--from", "nemo", "--to", "safetensors")
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert str(path) in result.stderr


def test_a_variant_from_a_file_is_checked(tmp_path):
    class Fake:
        def __reduce__(self):
            return Unknown, (), {"name": "mine", "rate": "nowhere", "source": "", "difference": ""}

    torch.save(content({"variant": Fake(), "skip_nonfinite": False}), tmp_path / "file")
    data = saved(content({"variant": Fake(), "skip_nonfinite": False}))
    name = f"c{__name__}\nUnknown\n".encode()
    assert name in data["data.pkl"]
    data["data.pkl"] = data["data.pkl"].replace(name, b"cnovograd.variants\nVariant\n")
    (tmp_path / "file").write_bytes(archive(data["data.pkl"], rest(data)))
    with pytest.raises(CheckpointError, match="rate must be one of"):
        read(tmp_path / "file", "torch")


def test_truncated_files_are_refused(tmp_path):
    for archived in (True, False):
        torch.save(content(), tmp_path / "file", _use_new_zipfile_serialization=archived)
        whole = (tmp_path / "file").read_bytes()
        for length in (0, 1, 3, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / "file").write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match="it is damaged"):
                read(tmp_path / "file", "timm")
    write(read_of(content(), tmp_path), tmp_path / "again", "safetensors")


def read_of(value, folder):
    torch.save(value, folder / "file")
    return read(folder / "file", "timm")
