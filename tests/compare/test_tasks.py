"""Tests of the built-in tasks: data, batches and metrics."""

import hashlib
import itertools
import math
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from novograd.compare.load import load
from novograd.compare.tasks import BUILT_IN, brain, brain3d, digits, text, toy
from tests.helpers import published

DATA = Path(str(files("novograd.compare.tasks"))) / "data"
SHA256 = {
    "brain.npz": "a205e57e38527d4ab97002d37166db6f533cd3d0adee6eeecee964b28e87e018",
    "text.txt.xz": "6c70166cf90db28ec03e9bd5fdb9d1d32b7390d8085c5cf49e2d7396f7109e44",
}


@pytest.mark.parametrize("name", SHA256)
def test_data_file_is_the_recorded_one(name: str) -> None:
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == SHA256[name]


def test_brain_is_remade_byte_for_byte(tmp_path: Path) -> None:
    wheel = str(published.wheel("nilearn-0.14.1"))
    made = tmp_path / "brain.npz"
    subprocess.run([sys.executable, str(DATA / "make_brain.py"), wheel, str(made)], check=True)
    assert made.read_bytes() == (DATA / "brain.npz").read_bytes()


def test_text_is_remade_byte_for_byte(tmp_path: Path) -> None:
    if sys.version_info[:3] != (3, 11, 7):
        pytest.skip("the text comes from Python 3.11.7 and differs in other versions")
    made = tmp_path / "text.txt.xz"
    subprocess.run([sys.executable, str(DATA / "make_text.py"), str(made)], check=True)
    assert made.read_bytes() == (DATA / "text.txt.xz").read_bytes()


def test_slices_can_be_halved_twice() -> None:
    _, test = brain.load(0)
    assert test.images.shape == test.labels.shape == (32, 80, 192)
    assert all(side % 4 == 0 for side in test.images.shape[1:])


def test_split_shares_no_slices_and_leaves_gaps() -> None:
    train, test = brain.split(138)
    assert (len(train), len(test)) == (90, 32)
    assert np.abs(train[:, None] - test).min() == 3  # at least two slices in between


def test_training_damage_depends_on_the_seed_and_test_damage_does_not() -> None:
    (train, test), (other_train, other_test) = brain.load(0), brain.load(1)
    assert not np.array_equal(train.images, other_train.images)
    assert np.array_equal(train.labels, other_train.labels)
    assert np.array_equal(test.images, other_test.images)


def test_slices_are_standardised() -> None:
    _, test = brain.load(0)
    np.testing.assert_allclose(test.images.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(test.images.std(axis=(1, 2)), 1, rtol=1e-5)


def test_batches_depend_on_the_seed_and_keep_images_with_their_labels() -> None:
    index = np.arange(4 * 70 * 80).reshape(4, 70, 80)
    slices = brain.Slices(index.astype(np.float32), (index % 251).astype(np.uint8))
    first, again, other = (
        list(itertools.islice(brain.crops(slices, seed), 3)) for seed in (5, 5, 6)
    )
    for batch, same in zip(first, again, strict=True):
        assert batch.images.shape == batch.labels.shape == (8, 64, 64)
        assert np.array_equal(batch.images, same.images)
        assert np.array_equal(batch.images.astype(int) % 251, batch.labels)
    assert not np.array_equal(first[0].images, other[0].images)
    assert not np.array_equal(first[0].images, first[1].images)


def test_dice_by_hand() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2])
    predicted = np.array([1, 1, 0, 2, 2, 1])
    # CSF: 1 in both, 3 predicted, 2 true. GM: 2 in both, 2 predicted, 3 true. WM: in neither.
    mean, *scores = brain.dice(predicted, labels).values()
    assert scores == [2 / 5, 4 / 5, 1.0]
    assert mean == pytest.approx(sum(scores) / 3)
    assert list(brain.dice(np.array([3]), np.array([2])).values()) == [1 / 3, 1.0, 0.0, 0.0]


def best_thresholds(images: NDArray[Any], labels: NDArray[Any], bins: int = 64) -> float:
    """Returns the mean Dice of the best three thresholds, searched with the true labels."""
    edges = np.quantile(images, np.linspace(0, 1, bins + 1)[1:-1])
    counts = np.zeros((4, bins + 1))
    np.add.at(counts, (labels.ravel(), 1 + np.digitize(images, edges).ravel()), 1)
    below = counts.cumsum(axis=1)
    cuts = np.array([(*c, bins) for c in itertools.combinations(range(bins + 1), 3)]).T
    scores = [
        2
        * (below[label, high] - below[label, low])
        / (below[:, high].sum(0) - below[:, low].sum(0) + below[label, -1])
        for label, (low, high) in enumerate(itertools.pairwise(cuts), start=1)
    ]
    return float(np.mean(scores, axis=0).max())


def test_thresholds_solve_the_template_but_not_the_task() -> None:
    with np.load(DATA / "brain.npz") as arrays:
        held_out = brain.split(len(arrays["t1"]))[1]
        assert best_thresholds(arrays["t1"][held_out], arrays["labels"][held_out]) > 0.9
    assert best_thresholds(*brain.load(0)[1]) < 0.5


@pytest.mark.parametrize("name", BUILT_IN)
def test_batches_depend_on_the_seed_and_test_batches_are_constant(name: str) -> None:
    task = load(name)
    first, again, other = (list(itertools.islice(task.batches(seed), 3)) for seed in (5, 5, 6))
    for batch, same in zip(first, again, strict=True):
        assert all(map(np.array_equal, batch, same))
    assert not np.array_equal(first[0][1], other[0][1])
    assert not np.array_equal(first[0][1], first[1][1])
    for batch, same in zip(task.test(), task.test(), strict=True):
        assert all(map(np.array_equal, batch, same))


def test_training_and_test_blocks_are_separated_by_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    t1, _ = brain.template()
    # No training block contains a voxel of the test part of the brain or of the gaps next to it.
    held_out = slice(brain3d.TEST - brain3d.GAP, brain3d.TEST + 3 * brain3d.DEPTH + brain3d.GAP)
    marked = np.zeros_like(t1)
    marked[held_out] = 1
    monkeypatch.setattr(brain3d, "template", lambda: (t1, marked))
    for _, labels in itertools.islice(brain3d.crops(0), 300):
        assert not labels.any()
    ((images, labels),) = brain3d.test()
    assert labels.all()
    assert images.shape == labels.shape == (3 * 1 * 3, 8, 64, 64)


def test_digits_are_the_scikit_learn_digits() -> None:
    images, labels = digits.load()
    assert images.shape == (1797, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_round_of_digits_shows_each_once() -> None:
    images = np.arange(130, dtype=np.float32), np.arange(130, dtype=np.uint8)
    seen = [batch[0] for batch in itertools.islice(digits.drawn(images, 0), 2)]
    assert len(set(np.concatenate(seen))) == 128


def test_accuracy_by_hand() -> None:
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    assert digits.accuracy(logits, np.array([1, 0, 0])) == {"accuracy": 2 / 3}


def test_text_predicts_the_next_character() -> None:
    read, targets = next(text.excerpts(0))
    assert read.shape == targets.shape == (16, 64)
    assert np.array_equal(read[:, 1:], targets[:, :-1])
    assert read.max() < text.load().characters


def test_training_text_does_not_contain_the_test_text() -> None:
    learnt = text.load().training.astype(np.uint8).tobytes()
    tested = text.load().test.astype(np.uint8).tobytes()
    paragraphs = [tested[i : i + 100] for i in range(0, len(tested) - 100, 100)]
    assert sum(paragraph in learnt for paragraph in paragraphs) < 0.01 * len(paragraphs)


def test_nats_by_hand() -> None:
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    expected = -(math.log(0.25) + math.log(0.8)) / 2
    assert text.nats(logits, np.array([[1, 2]]))["nats"] == pytest.approx(expected)


def test_position_of_two_weights_by_hand() -> None:
    found = toy.where(np.array([[-4.0, 3.0]], np.float32), np.ones((1, 1), np.float32))
    assert found == {"distance": 5.0, "sharpness": 50.0, "loss": 169.0, "w1": -4.0, "w2": 3.0}
