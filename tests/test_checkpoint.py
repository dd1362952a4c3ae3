"""Checkpoints: what they hold, and every way in which a file can be damaged."""

import random
import zipfile

import keras
import numpy as np
import pytest

from str_keras import checkpoint
from str_keras.checkpoint import DamagedError, Progress


@pytest.fixture(scope="module")
def model():
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    made.compile("sgd", "mse")
    return made


@pytest.fixture
def files(model, tmp_path):
    """The last checkpoint and the one before, of epochs 2 and 1."""
    last, previous = tmp_path / "last.keras", tmp_path / "previous.keras"
    for epoch in (1, 2):
        model.set_weights([np.full((3, 2), epoch), np.zeros(2)])
        checkpoint.save(model, last, Progress(epoch, 0, {"a": [0.1]}), previous)
    return last, previous


def kernel(loaded):
    return float(np.array(loaded.weights[0])[0, 0])


def test_a_checkpoint_has_its_checksum_and_the_one_before_stays(files):
    last, previous = files
    for path, epoch in ((last, 2), (previous, 1)):
        loaded, progress = checkpoint.load(path)
        assert progress == Progress(epoch, 0, {"a": [0.1]})
        assert kernel(loaded) == epoch
    # It is a .keras file as any other.
    assert kernel(keras.saving.load_model(last)) == 2
    with zipfile.ZipFile(last) as archive:
        assert archive.testzip() is None
    assert sorted(p.name for p in last.parent.iterdir()) == [
        "last.keras",
        "previous.keras",
    ]


def test_every_flipped_bit_is_found(files):
    """One in each of 200 bytes drawn from all of the file, and its first and last."""
    last, _ = files
    whole = last.read_bytes()
    places = [*random.Random(0).sample(range(len(whole)), 198), 0, len(whole) - 1]
    for place in places:
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << (place % 8)
        last.write_bytes(spoiled)
        with pytest.raises(DamagedError):
            checkpoint.load(last)
    last.write_bytes(whole)
    assert checkpoint.load(last)[1].epoch == 2


@pytest.mark.parametrize("left", [0, 1, 71, 0.5, -1])
def test_a_file_cut_short_is_found_and_the_one_before_taken(files, left, capsys):
    """Bytes that are left, a share of them, or all but one."""
    last, previous = files
    whole = last.read_bytes()
    size = round(left * len(whole)) if isinstance(left, float) else left
    last.write_bytes(whole[:size])
    with pytest.raises(DamagedError):
        checkpoint.load(last)
    loaded, progress = checkpoint.load_newest(last, previous)
    assert progress.epoch == kernel(loaded) == 1
    said = capsys.readouterr().err
    assert "checksum" in said and "previous.keras, after epoch 1" in said
    # The next checkpoint keeps the good one, not the damaged one.
    checkpoint.save(loaded, last, Progress(2), previous)
    assert checkpoint.load(previous)[1].epoch == 1


def test_a_lost_file_is_replaced_by_the_one_before(files):
    """As after a kill where a file system has no hard links."""
    last, previous = files
    last.unlink()
    assert checkpoint.load_newest(last, previous)[1].epoch == 1
    assert last.is_file() and not previous.is_file()
    last.unlink()
    assert checkpoint.load_newest(last, previous) is None


def test_without_hard_links_the_one_before_is_kept_too(files, model, monkeypatch):
    last, previous = files

    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    checkpoint.save(model, last, Progress(3), previous)
    found = [checkpoint.load(path)[1].epoch for path in files]
    assert found == [3, 2]


def test_two_damaged_files_are_an_error(files):
    for path in files:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError, match="No checkpoint of the run is whole"):
        checkpoint.load_newest(*files)


def test_what_keras_cannot_load_is_no_damage(files, monkeypatch):
    """A layer that is not registered, say: nothing is renamed or thrown away."""
    last, previous = files

    def refuse(*_, **__):
        raise TypeError("unknown layer")

    monkeypatch.setattr(keras.saving, "load_model", refuse)
    with pytest.raises(ValueError, match="unknown layer") as error:
        checkpoint.load_newest(last, previous)
    assert not isinstance(error.value, DamagedError)
    assert last.is_file() and previous.is_file()
