"""Running files in processes of their own, and judging what came of it.

What needs emulators or a browser is in test_device.py.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest
import runtime_files
from ai_edge_litert.interpreter import Interpreter

from str_keras import cli, export
from str_keras.export import flatbuffer, runtimes
from str_keras.export.runtimes import Outcome, RuntimesReport, command, installed
from str_keras.export.runtimes.ends import read_ends
from str_keras.export.runtimes.judging import Judge, weights_of

ROOT = pathlib.Path(__file__).parents[1]
GUESTS = ROOT / "str_keras" / "export" / "runtimes" / "guests"
SETUP = "run tools/setup_runtimes.sh"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    kinds = ("float32", "float32 sparse", "float16 sparse", "int8")
    return runtime_files.write(tmp_path_factory.mktemp("files"), *kinds)


@pytest.mark.parametrize("name", ["x86_no_avx", "arm64", "wasm"])
def test_a_missing_runtime_says_what_to_run(tmp_path, monkeypatch, files, name):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("STR_KERAS_RUNTIMES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    line = runtimes.available(name)
    assert SETUP in line and "no program" in line and "\n" not in line
    with pytest.raises(FileNotFoundError, match=SETUP):
        runtimes.run(name, [files["float32"]], runtime_files.samples())
    with pytest.raises(FileNotFoundError, match="or leave it out"):
        export.verify_runtimes(files["float32"], runtimes=["native", name])

    # The programs are there, but not what lies in the folder, or of another version.
    for program in ("qemu-x86_64", "qemu-aarch64", "node", "chromium"):
        (tmp_path / program).touch(mode=0o755)
    if name == "x86_no_avx":
        assert runtimes.available(name) == ""
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert "needs an x86-64 machine" in runtimes.available(name)
        return
    assert f"in {tmp_path}; {SETUP}" in runtimes.available(name)
    part = tmp_path / {"arm64": "arm64", "wasm": "web"}[name]
    part.mkdir()
    (part / ".stamp").write_text("python3.11 ai-edge-litert==1.0.0 numpy==2.0.0\n")
    line = runtimes.available(name)
    assert str(part) in line and SETUP in line


def test_native_is_always_there(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runtimes.available("native") == ""
    assert runtimes.NAMES == ("native", "x86_no_avx", "arm64", "wasm")


def test_the_folder_is_that_of_the_checkout_or_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("STR_KERAS_RUNTIMES", raising=False)
    assert installed.home() == ROOT / ".runtimes"
    monkeypatch.setenv("STR_KERAS_RUNTIMES", str(tmp_path))
    assert installed.home() == tmp_path


TOOLS = (
    *("bash", "dirname", "mkdir", "mktemp", "flock", "rm", "chmod", "cat", "cp"),
    "sha256sum",
)


def set_up(tmp_path, *arguments, true=(), **scripts):
    """The setup script among these programs alone; its end, and what it left."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).symlink_to(shutil.which(name))
    for name in true:
        (programs / name).symlink_to("/bin/true")
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [programs / "bash", str(ROOT / "tools" / "setup_runtimes.sh"), *arguments],
        capture_output=True,
        text=True,
        env={
            "PATH": str(programs),
            "STR_KERAS_RUNTIMES": str(tmp_path / "new"),
            "PYTHON": "/bin/true",
        },
        check=False,
    )
    return done, set(os.listdir(tmp_path / "new"))


def test_setup_without_rights_names_the_packages(tmp_path):
    """As a user without sudo, on a machine without a browser."""
    (tmp_path / "new" / ".work.killed").mkdir(parents=True)
    there = ("qemu-x86_64", "qemu-aarch64", "gcc", "python3")
    done, left = set_up(tmp_path, true=there, id="echo 1000")
    assert done.returncode == 1
    assert done.stderr.endswith("this is not root: apt-get install chromium\n")
    # What was half made is gone, and nothing says that it is there.
    assert left == {".lock"}


def test_setup_asks_for_headers_where_only_the_compiler_is_there(tmp_path):
    there = ("qemu-x86_64", "qemu-aarch64", "chromium")
    done, _ = set_up(tmp_path, true=there, id="echo 1000", gcc="exit 1")
    assert done.stderr.endswith("this is not root: apt-get install gcc libc6-dev\n")


def test_setup_without_node_says_so_though_its_packages_are_there(tmp_path):
    lock = hashlib.sha256((GUESTS / "package-lock.json").read_bytes()).hexdigest()
    (tmp_path / "new" / "web").mkdir(parents=True)
    (tmp_path / "new" / "web" / ".stamp").write_text(f"{lock}  -\n")
    done, _ = set_up(tmp_path, "web", node="exit 1")
    assert done.returncode == 1 and "error: node 20 or newer is needed" in done.stderr
    (tmp_path / "bin").rename(tmp_path / "old")
    done, _ = set_up(tmp_path, "web", true=["node"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_setup_tells_that_npm_failed(tmp_path):
    npm = 'echo "$@" >&2; exit 3'
    done, left = set_up(tmp_path, "web", true=["node"], npm=npm)
    assert done.returncode == 1 and left == {".lock"}
    told, line = done.stderr.splitlines()
    assert told.startswith("ci ") and "--silent" not in told
    assert line == "error: npm did not get LiteRT.js: see above"


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"name": "riscv"}, ValueError, "a runtime is one of"),
        ({"files": ["missing.tflite"]}, FileNotFoundError, "no such file"),
        ({"files": []}, ValueError, "`files` is a whole number, 1 or more"),
        ({"inputs": np.zeros((0, 64, 64, 3))}, ValueError, "at least one sample"),
        (
            {"inputs": np.zeros((2, 32, 32, 3))},
            ValueError,
            "takes samples .n, 64, 64, 3",
        ),
        ({"repeats": -1}, ValueError, "repeats=-1"),
        ({"warmup": 1.5}, ValueError, "warmup=1.5"),
        ({"threads": 0}, ValueError, "threads=0"),
    ],
)
def test_bad_arguments(files, changed, error, said):
    given = {"name": "native", "files": [files["float32"]]}
    given |= {"inputs": runtime_files.samples(), **changed}
    with pytest.raises(error, match=said):
        runtimes.run(**given)


@pytest.mark.slow
def test_native_runs_in_processes_of_its_own(tmp_path, files):
    """A file that ends its process takes neither this one along nor the others."""
    killer, text = tmp_path / "killer.tflite", tmp_path / "text.tflite"
    killer.write_bytes(runtime_files.killer())
    text.write_text("no model at all")
    paths = [files["float32"], killer, text, files["float16 sparse"]]
    inputs = list(runtime_files.samples(3))
    found = runtimes.run("native", paths, inputs, repeats=4, profile=True, count=True)
    first, dead, unreadable, last = found
    assert [outcome.file for outcome in found] == paths
    assert dead.error == "the process died of SIGSEGV, while loading it"
    assert "identifier TFL3 is missing" in unreadable.error
    assert dead.outputs is None and dead.sparse_kernels is None
    for outcome in (first, last):
        assert outcome.outputs.shape == (3, 10) and len(outcome.seconds) == 4
        assert outcome.median_seconds == np.median(outcome.seconds)
        assert any("DWConv" in name for name in outcome.operators)
        assert outcome.note == "no instruction count: native is not emulated"

    interpreter = Interpreter(model_path=str(files["float32"]))
    interpreter.allocate_tensors()
    for row, outputs in zip(inputs, first.outputs, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        index = interpreter.get_output_details()[0]["index"]
        np.testing.assert_array_equal(interpreter.get_tensor(index)[0], outputs)


@pytest.mark.slow
def test_a_guest_that_dies_at_its_start_is_an_outcome(monkeypatch, tmp_path, files):
    """Here a NumPy that does not load; the last line of its words is the reason."""
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (outcome,) = runtimes.run("native", [files["int8"]], runtime_files.samples())
    assert "status 1: ImportError: numpy is broken" in outcome.error


def test_the_dense_twin_holds_the_same_kernels():
    for weights in ("float32", "float16", "int8"):
        sparse = runtime_files.content(weights=weights, sparse=True)
        twin = runtimes.dense_twin(sparse)
        assert flatbuffer.count_operators(sparse, "DENSIFY") >= 3
        assert flatbuffer.count_operators(twin, "DENSIFY") == 0
        dense = flatbuffer.read_kernels(runtime_files.content(weights=weights))
        counts = sorted((k.size, k.nonzeros, k.dtype, k.sparse) for k in dense)
        kernels = flatbuffer.read_kernels(twin)
        found = [(k.size, k.nonzeros, k.dtype, k.sparse) for k in kernels]
        assert sorted(found) == counts
    assert runtimes.dense_twin(runtime_files.content()) is None
    with pytest.raises(ValueError, match="TFL3"):
        runtimes.dense_twin(b"no model at all")
    with pytest.raises(ValueError, match=r"is damaged: .* no place in it"):
        runtimes.dense_twin(runtime_files.killer())


@pytest.mark.slow
def test_the_dense_twin_gives_the_same_outputs(tmp_path, files):
    inputs = runtime_files.samples()
    for kind in ("float32 sparse", "float16 sparse"):
        path = tmp_path / "twin.tflite"
        path.write_bytes(runtimes.dense_twin(files[kind].read_bytes()))
        sparse, twin = runtimes.run("native", [files[kind], path], inputs)
        np.testing.assert_array_equal(sparse.outputs, twin.outputs)


def test_ends_of_a_quantized_file(tmp_path):
    content = runtime_files.int8_ends(runtime_files.mobile_net(), tmp_path)
    ends = read_ends(content)
    interpreter = Interpreter(model_content=content)
    (told,) = interpreter.get_input_details()
    (taken,) = ends.inputs
    assert (taken.name, taken.dtype, taken.index) == ("x", "int8", told["index"])
    assert (taken.scale, taken.zero_point) == told["quantization"]
    values = np.linspace(-9, 9, 12288, dtype="float32").reshape(1, 64, 64, 3)
    steps = taken.quantize(values)
    assert steps.dtype == np.int8 and {steps.min(), steps.max()} == {-128, 127}
    inside = np.abs(values) < 1
    back = taken.dequantize(steps)
    assert np.abs(back - values)[inside].max() <= taken.scale / 2 + 1e-6
    np.testing.assert_array_equal(taken.quantize(steps), steps)


def test_the_kind_of_a_file_is_the_coarsest_of_its_kernels():
    for weights in ("float32", "float16", "int8"):
        for sparse in (False, True):
            content = runtime_files.content(weights=weights, sparse=sparse)
            assert weights_of(content) == weights
    assert weights_of(runtime_files.content(weights="dynamic")) == "int8_weights"


def outcome(values, runtime="arm64", **fields):
    return Outcome(runtime, pathlib.Path("x"), heads={"y": np.array(values)}, **fields)


def test_work_of_a_dense_twin_tells_of_sparse_kernels():
    def judged(dense, sparse, **fields):
        pair = outcome([1.0], seconds=dense), outcome([1.0], seconds=sparse, **fields)
        return runtimes.work_ratio(*pair), runtimes.sparse_kernels_by_work(*pair)

    assert judged((3.0, 9.0, 2.0), (1.0, 1.5, 2.0)) == (2.0, True)
    assert judged((1.1,), (1.0,)) == (pytest.approx(1.1), False)
    assert judged((1.3,), (1.0,)) == (pytest.approx(1.3), None)
    assert judged((), (1.0,)) == (None, None)
    counted = outcome([1.0], instructions=400), outcome([1.0], instructions=100)
    assert runtimes.work_ratio(*counted) == 4.0


RIGHT = [[1.0, 0.0], [0.0, 2.0]]


@pytest.mark.parametrize(
    ("values", "difference", "agreement", "said"),
    [
        (RIGHT, 0.0, 1.0, ""),
        ([[1.0, 1e-4], [0.0, 2.0]], 5e-5, 1.0, ""),
        ([[1.0, 0.0], [0.0, 1.9]], 0.05, 1.0, "to Keras is 0.05, above 0.0001"),
        ([[0.0, 1.0], [0.0, 2.0]], 0.5, 0.5, "to Keras is 0.5, above 0.0001"),
        ([[1.0, np.nan], [0.0, 2.0]], None, None, "not finite"),
        ([1.0, 2.0], None, None, "outputs (2,), not (2, 2)"),
    ],
)
def test_wrong_outputs_are_told_from_right_ones(values, difference, agreement, said):
    judge = Judge(runtime_files.content(), {"Keras": np.array(RIGHT)}, {}, None)
    row = judge.row(outcome(values), None)
    assert row.agreement == agreement and said in row.fault
    assert row.difference == (None if difference is None else pytest.approx(difference))
    assert row.is_right == (said == "")
    # To the file's own run on this CPU where there is no Keras model.
    row = Judge(runtime_files.content(), {}, {"y": np.array(RIGHT)}, 0.5).row(
        outcome(values), None
    )
    assert row.is_right == (difference is not None)


def test_an_int8_file_may_differ_from_keras_but_not_between_runtimes():
    content, near = runtime_files.content(weights="int8"), [[1.2, 0.0], [0.0, 1.6]]
    judge = Judge(content, {"Keras": np.array(RIGHT)}, {"y": np.array(near)}, None)
    assert judge.weights == "int8"
    assert judge.row(outcome(near), None).is_right
    row = judge.row(outcome([[1.36, 0.0], [0.0, 1.6]]), None)
    assert "to native is 0.1, above 0.02" in row.fault
    judge = Judge(content, {"Keras": np.array(RIGHT)}, {}, None)
    for values, said in (
        ([[0.4, 0.5], [0.9, 0.8]], "choose as Keras does on 0%"),
        ([[0.0, 0.0], [0.0, 0.0]], "to Keras is 1, "),
    ):
        assert said in judge.row(outcome(values), None).fault


def test_the_table_says_what_is_known_of_sparse_kernels():
    content = runtime_files.content(sparse=True)
    judge = Judge(content, {"Keras": np.array(RIGHT)}, {}, None)
    kernels = {"Convolution (NCHW, F32) SPMM": 7.0}
    rows = [
        judge.row(outcome(RIGHT, "native", operators={"GEMM": 1.0}), None),
        judge.row(outcome(RIGHT, operators=kernels, seconds=(0.25,)), None),
        judge.row(outcome(RIGHT, "wasm", note="no profile: none here"), None),
        judge.row(Outcome("x86_no_avx", pathlib.Path("x"), "does not load"), None),
    ]
    assert [row.sparse_kernels for row in rows] == [False, True, None, None]
    dense = Judge(runtime_files.content(), {"Keras": np.array(RIGHT)}, {}, None)
    assert dense.row(outcome(RIGHT, "wasm"), None).sparse_kernels is False
    twin = outcome(RIGHT, "wasm", seconds=(0.4,))
    timed = judge.row(outcome(RIGHT, "wasm", seconds=(0.1,)), twin)
    assert timed.sparse_kernels is True and timed.work_ratio == pytest.approx(4)
    wrong = judge.row(outcome([[9.0, 0.0], [0.0, 2.0]], "wasm", seconds=(0.1,)), twin)
    assert wrong.sparse_kernels is None and "wrong outputs" in wrong.evidence

    report = RuntimesReport(
        file="m.tflite",
        sha256="0",
        bytes=1234,
        weights="float32",
        reference="Keras",
        samples=2,
        source="images",
        tolerance=1e-4,
        rows=tuple(rows),
        versions={},
    )
    lines = str(report).splitlines()
    assert lines[3].split() == ["arm64", "yes", "0.0e+00", "100.00%", "yes", *CELLS]
    assert lines[5].split()[:3] == ["x86_no_avx", "no", "-"]
    assert "m.tflite: 1,234 bytes, float32; compared with Keras on 2 images" in lines[6]
    assert "x86_no_avx: does not load" in lines
    assert any("wasm: no profile: none here, and there is no dense" in x for x in lines)
    assert not report.is_right
    told = json.loads(json.dumps(report.to_json()))
    assert [row["is_right"] for row in told["rows"]] == [True, True, True, False]


CELLS = ["250", "ms", "-", "-"]


@pytest.mark.slow
def test_native_alone_is_verified_against_keras(tmp_path, files):
    keras.utils.set_random_seed(0)
    model = runtime_files.mobile_net()
    report = export.verify_runtimes(
        files["float32 sparse"], model=model, runtimes=["native"], repeats=2
    )
    (row,) = report.rows
    assert report.is_right and row.difference < 1e-5 and row.seconds > 0
    assert (report.samples, report.source) == (8, "random inputs")
    other = runtime_files.mobile_net()
    other.layers[-1].kernel.assign(-other.layers[-1].kernel)
    report = export.verify_runtimes(
        files["float32"], model=other, runtimes=["native"], repeats=0
    )
    assert not report.is_right and "to Keras is 2, above" in report.rows[0].fault


ARGUMENTS = {
    "keras_model": "",
    "dataset": "",
    "data_dir": None,
    "num_images": 4,
    "runtimes": ["native"],
    "json_path": "",
    "command": "",
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"path": "missing.tflite"}, "no such file"),
        ({"runtimes": ["native", "phone"]}, "a runtime is one of"),
        ({"runtimes": ["wasm"]}, "add native"),
        ({"keras_model": "missing.keras"}, "no such model"),
        ({"dataset": "no_such_data"}, "no_such_data"),
        ({"num_images": -1}, "--num_images=-1"),
        ({"tolerance": 1.0}, "tolerance=1.0"),
    ],
)
def test_bad_values_are_one_line(files, capsys, changed, said):
    arguments = {"path": str(files["float32"]), **ARGUMENTS, **changed}
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: command.verify_file(**arguments), ["verify_runtimes"])
    assert caught.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]
