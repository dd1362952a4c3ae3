"""A run directory: one run at a time, tables that are whole, what stands in the way."""

import errno
import os
import re

import pytest

from str_keras import run_directory
from str_keras.budget import KernelSparsity
from str_keras.config import TrainConfig
from str_keras.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "new" / "run")


def fill(run, epochs):
    kernel = KernelSparsity("fc/kernel", 4, 1, 0.5)
    for epoch in range(1, epochs + 1):
        row = dict.fromkeys(run_directory.METRICS, 0.25)
        run.add_epoch(row | {"epoch": epoch, "step": 3 * epoch}, [kernel])


def test_two_runs_in_one_directory_are_refused(run):
    with run.locked():
        with pytest.raises(BlockingIOError) as error, RunDirectory(run.path).locked():
            raise AssertionError
        said = str(error.value)
        assert re.search(r"Another process .* Received: run_dir=.*new/run, pid=", said)
        assert f"pid={os.getpid()}, host={os.uname().nodename}" in said
    assert not run.path.exists()
    run.path.mkdir()
    with RunDirectory(run.path).locked():
        assert [p.name for p in run.path.iterdir()] == [".lock"]
    assert list(run.path.iterdir()) == []


def test_a_file_system_without_locks_is_said_and_used(run, monkeypatch, capsys):
    filelock = pytest.importorskip("filelock")
    acquire = filelock.FileLock._acquire

    def refuse(self):
        acquire(self)
        self._release()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with run.locked():
        run.create(TrainConfig(), "", {})
    assert "no locks on this file system" in capsys.readouterr().err


def test_what_a_killed_process_left_is_swept_and_does_not_count(run):
    run.path.mkdir(parents=True)
    left = [".config.ab3_x9zz.json", ".last.k2l4m6n8.keras", ".metrics.a_b_c_d_.csv"]
    for name in left:
        (run.path / name).write_text("half")
    (run.path / ".mine").write_text("a user's")
    run.check_free()
    with run.locked():
        run.create(TrainConfig(), "", {})
        assert {p.name for p in run.path.iterdir()} == {".lock", ".mine", "config.json"}
        with pytest.raises(FileExistsError, match="--resume"):
            run.create(TrainConfig(), "", {})


def test_tables_go_with_the_checkpoint(run):
    """A line too many is left out, one too few is an error."""
    fill(run, 3)
    again = RunDirectory(run.path)
    again.read_tables(2)
    assert again.metrics == run.metrics[:2] and again.layers == run.layers[:2]
    with pytest.raises(ValueError, match=r"of epoch 4, but metrics\.csv .*run_dir="):
        again.read_tables(4)
    table = run.path / "metrics.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(ValueError, match="does not have a line of each"):
        again.read_tables(2)
    table.write_text("\n".join([lines[0], lines[1].replace("0.25", "a")]))
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
        again.read_tables(1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_is_said_with_the_mend(run, number, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "somewhere")

    monkeypatch.setattr(run_directory.files, "write_text", refuse)
    mend = "Make room" if number == errno.ENOSPC else "See to it that it can"
    why = f"The table cannot be written: {os.strerror(number)}. {mend}; "
    with pytest.raises(OSError, match=f"{why}there is no checkpoint yet.*run_dir="):
        fill(run, 1)
    run.path.mkdir(parents=True)
    run.last.write_text("a checkpoint")
    with pytest.raises(OSError, match=f"{why}--resume goes on from the last"):
        fill(run, 1)


def test_where_no_run_can_start(run, monkeypatch):
    run.path.parent.mkdir()
    run.path.write_text("a file")
    with pytest.raises(FileExistsError, match="name another"):
        run.check_free()
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunDirectory(run.path / "below").check_free()
    # As os.access says of directories that are read-only; root may write to others.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"no permission to write to .*new\. "):
        RunDirectory(run.path.parent / "other").check_free()
