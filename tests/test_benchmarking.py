"""Medians, ratios, table and JSON of the benchmark, and files timed on this CPU.

What needs emulators or a browser is in test_device.py. No time is asserted.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import runtime_files

from str_keras import cli, export
from str_keras.export.benchmarking import (
    BenchmarkReport,
    BenchmarkRow,
    Spread,
    command,
    measuring,
)
from str_keras.export.benchmarking.spread import ratios
from str_keras.export.runtimes import Outcome

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    kinds = ("float32", "float32 sparse", "float16 sparse", "int8")
    return runtime_files.write(tmp_path_factory.mktemp("files"), *kinds)


def test_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3, 2, 4, 5)
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.75, 3.25, 4)
    assert Spread.of([7.0]) == Spread(7, 7, 7, 1)
    assert Spread.of([]) is None


def test_ratios_stand_turn_by_turn():
    """A machine that gets ten times slower between turns changes no ratio."""
    baseline, other = [8.0, 80.0, 4.0, 8.0], [2.0, 20.0, 1.0, 4.0]
    assert ratios(baseline, other) == Spread(4, 3.5, 4, 4)
    medians = np.median(baseline) / np.median(other)
    assert medians == pytest.approx(8 / 3)
    assert ratios([], other) is None and ratios(baseline, []) is None
    with pytest.raises(ValueError, match="shorter"):
        ratios(baseline, other[:3])


ROWS = (
    BenchmarkRow("wasm", 1, "twin.tflite", "", False, "", Spread(0.05, 0.04, 0.06, 9)),
    BenchmarkRow(
        "wasm",
        1,
        "sparse.tflite",
        sparse_kernels=None,
        evidence="unclear",
        seconds=Spread(0.0125, 0.012, 0.013, 9),
        faster=Spread(4.0, 3.5, 4.25, 9),
    ),
    BenchmarkRow(
        "arm64",
        1,
        "sparse.tflite",
        sparse_kernels=True,
        seconds=Spread(1.5, 1.25, 1.75, 5),
        instructions=1_234_567,
        fewer=3.5,
        operators={"SPMM": 75.0, "DWConv": 20.0, "A": 3.0, "B": 1.5, "C": 0.5},
    ),
    BenchmarkRow("native", 2, "sparse.tflite", "does not load"),
)


def report(rows=ROWS):
    return BenchmarkReport(
        baseline="twin.tflite",
        bytes={"twin.tflite": 123_456, "sparse.tflite": 12_345},
        rows=rows,
        machine={"cores": 2, "load_before": 0.5, "load_after": 1.25},
        versions={"keras": "3.15.1"},
    )


def test_table():
    lines = str(report()).splitlines()
    cells = [" ".join(line.split()) for line in lines]
    assert cells[2] == ("wasm 1 twin.tflite 123,456 no 50.00 ms 40.00 to 60.00 - - - -")
    assert cells[3] == (
        "wasm 1 sparse.tflite 12,345 unknown 12.50 ms 12.00 to 13.00 "
        "4.00 x 3.50 to 4.25 - -"
    )
    assert cells[4] == (
        "arm64 1 sparse.tflite 12,345 yes 1,500 ms 1,250 to 1,750 - - 1,234,567 3.50 x"
    )
    assert cells[5] == "native 2 sparse.tflite 12,345 - - - - - - -"
    assert "2 cores): 0.50 before, 1.25 after" in cells[6]
    assert "Times of arm64 are emulated work, not latency." in cells
    assert "native, sparse.tflite: does not load" in cells
    assert "wasm, sparse.tflite: unclear" in cells
    assert cells[-1] == "arm64, sparse.tflite: 75% SPMM, 20% DWConv, 3% A, 2% B"


def test_json():
    told = json.loads(json.dumps(report().to_json()))
    assert not told["is_right"] and report(ROWS[:3]).is_right
    assert told["rows"][1]["faster"] == {
        "median": 4.0,
        "low": 3.5,
        "high": 4.25,
        "number": 9,
    }
    assert told["rows"][2]["operators"]["SPMM"] == 75 and told["bytes"]["twin.tflite"]


def scripted(monkeypatch, outcomes):
    """Lets runtimes give what a test says, by runtime and name of the file."""

    def run(name, paths, samples, **options):
        asked.append((name, options))
        return [
            Outcome(
                name,
                path,
                heads={"y": np.array([[1.0, 2.0]])},
                **outcomes.get((name, path.name), {}),
            )
            for path in paths
        ]

    asked = []
    monkeypatch.setattr(measuring, "run", run)
    monkeypatch.setattr(measuring, "available", lambda name: "")
    monkeypatch.setattr(measuring, "runtime_versions", lambda names: {})
    return asked


def test_what_is_run_and_compared(monkeypatch, files):
    asked = scripted(
        monkeypatch,
        {
            ("wasm", "float32.tflite"): {"seconds": (4.0, 40.0, 5.0)},
            ("wasm", "float32-sparse.tflite"): {"seconds": (1.0, 10.0, 1.0)},
            ("arm64", "float32.tflite"): {"instructions": 900, "seconds": (6.0,)},
            ("arm64", "float32-sparse.tflite"): {"instructions": 300},
        },
    )
    paths = [files["float32"], files["float32 sparse"]]
    found = export.benchmark(
        paths, runtimes=["wasm", "arm64"], threads=[1, 2], repeats=3, warmup=4
    )
    timed = {
        (name, options["threads"]): (options["repeats"], options["warmup"])
        for name, options in asked
        if "threads" in options
    }
    assert timed == {("wasm", 1): (3, 4), ("wasm", 2): (3, 4), ("arm64", 1): (5, 1)}
    assert asked[0] == ("native", {"timeout": 300.0})  # the right outputs
    rows = {(row.runtime, row.threads, row.file): row for row in found.rows}
    assert found.baseline == "float32.tflite" and found.is_right
    sparse = rows["wasm", 2, "float32-sparse.tflite"]
    assert sparse.faster == Spread(4, 4, 4.5, 3) and sparse.sparse_kernels is True
    assert rows["wasm", 1, "float32.tflite"].faster is None
    counted = rows["arm64", 1, "float32-sparse.tflite"]
    assert (counted.instructions, counted.fewer, counted.faster) == (300, 3.0, None)


@pytest.mark.parametrize("factor", [0, 1.001])
def test_a_wrong_result_has_no_speed(monkeypatch, files, factor):
    outcomes = {
        ("wasm", "float32.tflite"): {"seconds": (1.0,)},
        ("wasm", "float32-sparse.tflite"): {"seconds": (0.1,)},
    }
    asked = scripted(monkeypatch, outcomes)
    right = measuring.run

    def run(name, paths, samples, **options):
        found = right(name, paths, samples, **options)
        if name == "wasm":
            found[1].heads["y"] *= factor
        return found

    monkeypatch.setattr(measuring, "run", run)
    paths = [files["float32"], files["float32 sparse"]]
    found = export.benchmark(paths, runtimes=["wasm"])
    assert len(asked) == 2 and not found.is_right
    assert "wrong outputs" in found.rows[1].trouble
    assert found.rows[1].faster is None and found.rows[1].sparse_kernels is None
    loose = export.benchmark(paths, runtimes=["wasm"], tolerance=0.01)
    assert loose.is_right == (factor != 0) == (loose.rows[1].faster is not None)


def test_another_net_does_not_tell_of_sparse_kernels(monkeypatch, files, tmp_path):
    """Where there is no profile they are judged by the dense twin's work alone."""
    other = tmp_path / "other.tflite"
    other.write_bytes(runtime_files.content("conv"))
    seconds = {"seconds": (1.0,)}
    scripted(monkeypatch, {("wasm", "other.tflite"): seconds})
    found = export.benchmark([other, files["float32 sparse"]], runtimes=["wasm"])
    assert found.rows[1].sparse_kernels is None


@pytest.mark.slow
def test_a_sparse_file_is_timed_against_its_twin(files, capsys, tmp_path):
    saved = tmp_path / "times.json"
    status = command.benchmark_files(
        [str(files["float32 sparse"]), str(files["int8"])],
        runtimes=["native"],
        threads=["1", "2"],
        json_path=str(saved),
        command="the command",
        repeats=4,
        warmup=1,
    )
    assert status == 0
    told = json.loads(saved.read_text())
    names = [
        "float32-sparse-dense-twin.tflite",
        "float32-sparse.tflite",
        "int8.tflite",
    ]
    assert (told["baseline"], list(told["bytes"])) == (names[0], names)
    assert told["bytes"][names[0]] > told["bytes"][names[1]]
    assert told["command"] == "the command" and "git_revision" in told
    assert {"ai-edge-litert", "keras"} <= set(told["versions"])
    assert told["machine"]["cores"] >= 1 and told["machine"]["processor"]
    rows = told["rows"]
    assert [(r["threads"], r["file"]) for r in rows] == [
        (number, name) for number in (1, 2) for name in names
    ]
    for row in rows:
        assert row["trouble"] == "" and row["seconds"]["number"] == 4
        assert (row["faster"] is None) == (row["file"] == names[0])
        assert any("GEMM" in name for name in row["operators"])
    assert names[1] in capsys.readouterr().out


BAD = [
    ({"files": []}, "at least one file"),
    ({"files": ["missing.tflite"]}, "no such file"),
    ({"runtimes": []}, "at least one runtime"),
    ({"runtimes": ["phone"]}, "a runtime is one of"),
    ({"threads": ["1", "two"]}, "--threads=1,two"),
    ({"threads": ["0"]}, "threads=[0]"),
    ({"threads": []}, "threads=[]"),
    ({"repeats": -1}, "repeats=-1"),
    ({"warmup": -1}, "warmup=-1"),
    ({"inputs": np.zeros((1, 8, 8, 3))}, "takes samples (n, 64, 64, 3)"),
]


@pytest.mark.parametrize(("changed", "said"), BAD)
def test_bad_values_are_one_line(files, capsys, changed, said):
    arguments = {
        "files": [str(files["float32"])],
        "runtimes": ["native"],
        "threads": ["1"],
        "json_path": "",
        "command": "",
        **changed,
    }
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: command.benchmark_files(**arguments), ["benchmark"])
    assert caught.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


def test_names_must_differ(files, tmp_path):
    copy = tmp_path / files["float32"].name
    copy.write_bytes(files["float32"].read_bytes())
    with pytest.raises(ValueError, match=r"same name\. Received: float32\.tflite"):
        export.benchmark([files["float32"], copy])
    twin = tmp_path / "float32-sparse-dense-twin.tflite"
    twin.write_bytes(files["float32"].read_bytes())
    with pytest.raises(ValueError, match="a name of its own"):
        export.benchmark([files["float32 sparse"], twin])


@pytest.mark.slow
def test_the_tool_explains_its_flags_and_refuses_bad_ones():
    def tool(*arguments):
        return subprocess.run(
            [sys.executable, str(ROOT / "tools" / "benchmark_tflite.py"), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )

    done = tool("--help")
    for flag in ("model", "runtimes", "threads", "emulated_repeats", "json"):
        assert f"--{flag}:" in done.stdout or f"--[no]{flag}:" in done.stdout
    done = tool("--repeats=x")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
