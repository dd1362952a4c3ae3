"""The fuzzer of file readers: it finds bugs, and in our readers none."""

import pathlib
import subprocess
import sys

import keras
import pytest

pytest.importorskip("atheris")
PROGRAM = pathlib.Path(__file__).parents[1] / "tools" / "fuzz_readers.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="fuzzes readers with TensorFlow"
    ),
]


def run(*arguments, program=PROGRAM):
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_reader_is_fuzzed_for_a_bounded_time(tmp_path):
    done = run("--reader=budget.json", "--seconds=3", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    name, _, number = done.stdout.partition(": ")
    assert name == "budget.json" and int(number.split()[0]) > 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_what_is_no_refusal_is_a_bug_and_its_file_is_kept(tmp_path):
    """The same program, with a reader that fails by an IndexError."""
    broken = tmp_path / "broken.py"
    text = PROGRAM.read_text().replace('"budget": Budget.read', '"budget": fail')
    assert "fail," in text
    failing = "def fail(path):\n    return path.read_bytes()[1000]\n\n\ndef main("
    broken.write_text(text.replace("def main(", failing, 1))
    found = tmp_path / "found"
    arguments = ["--reader=budget.csv", "--seconds=30", f"--output={found}"]
    done = run(*arguments, program=broken)
    assert done.returncode == 1 and "IndexError" in done.stderr
    assert "Readers fail" in done.stderr.splitlines()[-1]
    assert [p.name.startswith("budget.csv-crash") for p in found.iterdir()] == [True]


def test_an_unknown_reader():
    done = run("--reader=novel")
    assert done.returncode == 1 and "Received: 'novel'" in done.stderr


@pytest.mark.long
def test_all_readers_for_two_minutes(tmp_path):
    done = run("--seconds=120", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" inputs") == 9 and ": no inputs" not in done.stdout
