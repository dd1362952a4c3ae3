"""The benchmarks' parent: turns, ratios, contenders that fail, and its report."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import report, step_time

FAKE = """
import sys
print("ready 100", flush=True)
for line in sys.stdin:
    print(int(line) * {seconds}, flush=True)
print({peak})
"""
TWINS = {"sparse": "plain", "broken": "plain"}


def fake(seconds, peak):
    code = FAKE.format(seconds=seconds, peak=peak)
    return lambda: step_time.Contender([sys.executable, "-c", code])


def broken(code):
    return lambda: step_time.Contender([sys.executable, "-c", code])


def rows_of(started, rounds=3):
    found = step_time.measure(started, rounds, 5)
    return {row["method"]: row for row in step_time.summarize(found, TWINS)}


def test_ratio_and_memory_to_the_twin():
    rows = rows_of({"plain": fake(0.5, 1000), "sparse": fake(0.75, 1150)})
    assert rows["sparse"]["seconds"] == 0.75 and rows["sparse"]["ratio"] == 1.5
    assert rows["sparse"]["extra_copies"] == 1.5
    assert rows["plain"]["ratio"] == 1 and rows["plain"]["extra_copies"] == 0


def test_the_ratio_is_taken_by_round():
    one = {"kernel_bytes": 1, "peak_bytes": 1}
    slow = {"plain": {"seconds": [1.0, 10.0, 2.0], **one}}
    found = slow | {"sparse": {"seconds": [2.0, 20.0, 6.0], **one}}
    row = step_time.summarize(found, TWINS)[1]
    assert (row["low"], row["ratio"], row["high"]) == (2.0, 2.0, 2.5)


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('no such layer')",
        "print('ready 1', flush=True); input(); raise ValueError('no such layer')",
    ],
    ids=["at its start", "in its turn"],
)
def test_what_cannot_has_its_reason(code):
    rows = rows_of({"plain": fake(1, 1), "broken": broken(code)})
    assert rows["broken"]["reason"] == "ValueError: no such layer"
    assert rows["broken"]["ratio"] == "" and rows["plain"]["ratio"] == 1


def test_without_the_twin_there_is_no_ratio():
    rows = rows_of({"plain": broken("1 / 0"), "sparse": fake(1, 1)})
    assert rows["sparse"]["ratio"] == "" and rows["sparse"]["seconds"] == 1
    assert rows["sparse"]["reason"].startswith("plain: ZeroDivisionError")


def test_a_method_brings_its_dense_one():
    assert set(step_time.choose(["torch_str"])) == {"torch_str", "torch_dense"}
    assert len(set(step_time.choose([]))) == len(step_time.choose([])) > 15
    with pytest.raises(ValueError, match="Received: 'strr'"):
        step_time.choose(["strr"])


def step_rows(ratio):
    values = dict.fromkeys(step_time.COLUMNS, "")
    values |= {"batch_size": "32", "low": "1", "high": "2", "seconds": "1"}
    ours = values | {"method": "str", "ratio": str(ratio), "extra_copies": "0.5"}
    theirs = values | {"method": "tfmot", "ratio": "1.2", "extra_copies": "2"}
    return [ours, theirs, values | {"method": "pquant_cs", "reason": "no | layer"}]


def test_goals_are_met_or_not():
    assert all(line.endswith(", met.") for line in report.goals(step_rows(1.03)))
    lines = report.goals(step_rows(1.3))
    assert lines[0].endswith("1.300, not met.") and lines[1].endswith("not met.")


def test_report_keeps_what_is_around(tmp_path):
    def write(name, rows):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    output = tmp_path / "RESULTS.md"
    with pytest.raises(ValueError, match=r"no \.csv"):
        report.write(tmp_path, output)
    write("step_time-a-32.csv", step_rows(1.3))
    report.write(tmp_path, output)
    output.write_text(output.read_text() + "\nwords\n")
    write("step_time-a-32.csv", step_rows(1.01))
    write("tools.csv", [{"tool": "audit", "seconds": "3", "command": "python -m x"}])
    report.write(tmp_path, output)
    text = output.read_text()
    assert "words" in text and "1.010, met" in text and "1.300" not in text
    assert r"cannot: no \| layer" in text
    assert "| audit | 3 |" in text and "command: python -m x" in text


@pytest.mark.slow
def test_two_real_contenders(tmp_path):
    output = tmp_path / "r.csv"
    command = [sys.executable, "-m", "benchmarks.step_time", "--net=transformer"]
    command += ["--only=torch_str", "--rounds=2", "--steps=2", "--batch_size=2"]
    run = subprocess.run([*command, f"--output={output}"], capture_output=True)
    assert run.returncode == 0, run.stderr
    with output.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"torch_str", "torch_dense"}
    assert np.isfinite(float(rows["torch_str"]["ratio"]))
    assert int(rows["torch_str"]["kernel_bytes"]) > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["--only=strr", "--rounds=1", "--net=vgg"])
def test_bad_flags(bad):
    command = [sys.executable, "-m", "benchmarks.step_time", bad]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and bad.partition("=")[2] in run.stderr
