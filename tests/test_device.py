"""The same files on this CPU, on x86 without AVX, on Arm and in a browser."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import runtime_files
import tensorflow as tf

from str_keras import export
from str_keras.export import runtimes

pytestmark = pytest.mark.runtimes
ROOT = pathlib.Path(__file__).parents[1]
EMULATED = ("x86_no_avx", "arm64")
HAS_AVX = " avx " in pathlib.Path("/proc/cpuinfo").read_text()


def difference(outputs, reference):
    return np.abs(outputs - reference).max() / np.abs(reference).max()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return runtime_files.mobile_net()


@pytest.mark.parametrize("name", runtimes.NAMES)
def test_outputs_kernels_and_work(tmp_path, model, name):
    """The sparse files equal Keras, by sparse kernels where there is no AVX."""
    inputs = runtime_files.samples(3)
    reference = model.predict(inputs, verbose=0)
    kinds = ("float32", "float32 sparse", "float16 sparse")
    files = runtime_files.write(tmp_path, *kinds)
    found = runtimes.run(
        name, list(files.values()), inputs, repeats=3, profile=True, count=True
    )
    dense, sparse, half = found
    for outcome, path in zip(found, files.values(), strict=True):
        assert (outcome.runtime, outcome.file, outcome.error) == (name, path, "")
        assert len(outcome.seconds) == 3 and min(outcome.seconds) > 0
    assert difference(dense.outputs, reference) < 1e-5
    assert difference(sparse.outputs, reference) < 1e-5
    assert 1e-6 < difference(half.outputs, reference) < 5e-3

    if name == "wasm":
        assert sparse.operators is None and "no profiler" in sparse.note
    else:
        on = name in EMULATED or not HAS_AVX
        assert [outcome.sparse_kernels for outcome in found] == [False, on, on]
        assert ("Convolution (NCHW, F32) SPMM" in sparse.operators) == on
        assert sum(sparse.operators.values()) > 0
    if name in EMULATED:
        assert runtimes.work_ratio(dense, sparse) > 1.5
        assert runtimes.sparse_kernels_by_work(dense, sparse)
        again = runtimes.run(name, [files["float32"]], inputs[:1], count=True)
        assert again[0].instructions == pytest.approx(dense.instructions, rel=0.01)
    else:
        assert sparse.instructions is None and "not emulated" in sparse.note


def test_pointwise_head_fails_only_where_sparse_kernels_are_on(tmp_path, model):
    """A 1x1 convolution as the classifier: the trap that a run under AVX hides."""
    head = runtime_files.mobile_net("conv")
    inputs = runtime_files.samples(3)
    trap, plain, mended = (
        tmp_path / f"{x}.tflite" for x in ("trap", "plain", "mended")
    )
    trap.write_bytes(runtime_files.content("conv", sparse=True))
    plain.write_bytes(runtime_files.content("conv"))
    # The exporter writes the same function as a fully connected layer.
    export.tflite(head, mended, sparse=True)
    reference = head.predict(inputs, verbose=0)
    # As Dense it is right everywhere, see above.
    assert difference(model.predict(inputs, verbose=0), reference) < 1e-5
    for name in runtimes.NAMES:
        outcomes = runtimes.run(name, [trap, plain, mended], inputs, profile=True)
        assert difference(outcomes[1].outputs, reference) < 1e-5
        assert difference(outcomes[2].outputs, reference) < 1e-5
        outcome, off = outcomes[0], name == "native" and HAS_AVX
        if name == "wasm":
            assert outcome.error == ""  # it loads, and runs
            assert difference(outcome.outputs, reference) > 0.5
        elif off:
            assert difference(outcome.outputs, reference) < 1e-5
        else:
            assert "failed to reshape runtime" in outcome.error
            assert outcome.outputs is None
            assert outcomes[2].sparse_kernels


@pytest.mark.parametrize(
    ("weights", "operator"), [("int8", "FULLY_CONNECTED"), ("dynamic", "CONV_2D")]
)
def test_sparse_int8_fails_everywhere(tmp_path, model, weights, operator):
    inputs = runtime_files.samples()
    files = runtime_files.write(tmp_path, weights, f"{weights} sparse")
    reference = model.predict(inputs, verbose=0)
    for name in runtimes.NAMES:
        dense, sparse = runtimes.run(name, list(files.values()), inputs)
        assert difference(dense.outputs, reference) < 0.2
        if name == "wasm":
            assert difference(sparse.outputs, reference) > 0.5
        else:
            assert f"failed to delegate {operator}" in sparse.error


@pytest.mark.parametrize("name", runtimes.NAMES)
def test_batches_and_several_outputs(tmp_path, name):
    """A fixed batch is filled up, a free one goes by one, outputs keep their names."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    last = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, {"z_first": x, "a_last": last})
    samples = runtime_files.samples(7, 8)
    reference = model.predict(samples, verbose=0)
    paths = []
    for batch_size in (4, None):
        paths.append(tmp_path / f"{batch_size}.tflite")
        paths[-1].write_bytes(runtime_files.to_tflite(model, batch_size, tmp_path))
    fixed, free = runtimes.run(name, paths, samples)
    if name == "wasm":
        assert "LiteRT.js cannot run a free batch" in free.error
    for outcome in (fixed,) if name == "wasm" else (fixed, free):
        assert outcome.error == ""
        assert set(outcome.heads) == {"z_first", "a_last"}
        for key, values in outcome.heads.items():
            np.testing.assert_allclose(values, reference[key], atol=1e-5)


@pytest.mark.parametrize("name", runtimes.NAMES)
def test_odd_outputs(tmp_path, name):
    """One tensor under two names; an output that is not a row a sample is refused."""
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(4)(inputs)
    model = keras.Model(inputs, {"p": outputs, "q": outputs})
    spec = tf.TensorSpec((1, 8), "float32")
    twice, turned = tmp_path / "twice.tflite", tmp_path / "turned.tflite"
    twice.write_bytes(runtime_files.to_tflite(model, 1, tmp_path))
    turned.write_bytes(runtime_files.of_function(tf.transpose, spec))
    samples = np.random.default_rng(3).standard_normal((3, 8), dtype="float32")
    both, other = runtimes.run(name, [twice, turned], samples)
    assert list(both.heads) == ["p", "q"] and both.error == ""
    reference = model(samples)["p"]
    np.testing.assert_allclose(both.heads["q"], reference, atol=1e-5)
    # LiteRT.js fills the last of them alone: a wrong file there, and told as it is.
    first = 0 * reference if name == "wasm" else reference
    np.testing.assert_allclose(both.heads["p"], first, atol=1e-5)
    assert "an output is no row a sample" in other.error and not other.heads


@pytest.mark.parametrize("name", runtimes.NAMES)
def test_pixels_and_quantized_ends(tmp_path, name):
    """Raw uint8 pixels go in as they are; int8 ends are quantized here."""
    model = runtime_files.mobile_net()
    images = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    path = tmp_path / "pixels.tflite"
    export.tflite(
        model, path, uint8_input=True, preprocessing=runtime_files.PREPROCESSING
    )
    (outcome,) = runtimes.run(name, [path], images)
    tensors = np.asarray(runtime_files.PREPROCESSING.normalize(images))
    assert difference(outcome.outputs, model.predict(tensors, verbose=0)) < 1e-5

    path = tmp_path / "int8.tflite"
    path.write_bytes(runtime_files.int8_ends(model, tmp_path))
    inputs = runtime_files.samples()
    (outcome,) = runtimes.run(name, [path], inputs)
    if name == "wasm":
        said = "LiteRT.js takes float32, int32 and uint8 inputs, not int8"
        assert outcome.error == said  # and nothing of the GPU that is not there
    else:
        assert outcome.outputs.dtype == np.float32
        assert difference(outcome.outputs, model.predict(inputs, verbose=0)) < 0.2


@pytest.mark.parametrize("name", ["x86_no_avx", "arm64"])
def test_a_file_that_kills_its_process_alone_fails(tmp_path, name):
    paths = runtime_files.write(tmp_path, "float32", "float32 sparse")
    killer = tmp_path / "killer.tflite"
    killer.write_bytes(runtime_files.killer())
    files = [paths["float32"], killer, paths["float32 sparse"]]
    first, dead, last = runtimes.run(
        name, files, runtime_files.samples(), repeats=2, count=True
    )
    assert dead.error == "the process died of SIGSEGV, while loading it"
    assert dead.outputs is None and dead.instructions is None
    assert difference(first.outputs, last.outputs) < 1e-5
    assert len(first.seconds) == 2 and last.instructions > 1e6


@pytest.mark.parametrize("name", runtimes.NAMES)
def test_a_guest_that_takes_too_long_is_ended(tmp_path, name):
    files = runtime_files.write(tmp_path, "float32", "float32 sparse").values()
    start = time.monotonic()
    # No guest starts in so short a time, whatever the machine.
    found = runtimes.run(name, list(files), runtime_files.samples(), timeout=0.01)
    assert time.monotonic() - start < 60
    for outcome in found:
        assert outcome.error == "ended after 0.01 s without a sign of progress"
        assert outcome.outputs is None


def test_arm_without_its_processor_described(tmp_path, monkeypatch):
    """XNNPACK dies where it cannot learn the processor: an outcome, no exception."""
    home = pathlib.Path(runtimes.installed.home())
    (tmp_path / "arm64").mkdir()
    for part in ("usr", "lib", "site", ".stamp"):
        (tmp_path / "arm64" / part).symlink_to(home / "arm64" / part)
    monkeypatch.setenv("STR_KERAS_RUNTIMES", str(tmp_path))
    files = runtime_files.write(tmp_path, "float32").values()
    (outcome,) = runtimes.run("arm64", list(files), runtime_files.samples(), count=True)
    assert outcome.error == "the process died of SIGSEGV, while loading it"


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "verify_runtimes.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_verify_tool(tmp_path, model):
    """A right file, on all four with Keras' outputs; its dense twin in the browser."""
    saved, path = tmp_path / "model.keras", tmp_path / "model.tflite"
    model.save(saved)
    path.write_bytes(runtime_files.content(weights="float16", sparse=True))
    done = run_tool(
        f"--model={path}",
        f"--keras={saved}",
        "--dataset=fashion_mnist_5k",
        "--num_images=8",
        "--count",
        "--against_dense",
        f"--json={tmp_path / 'report.json'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared with Keras on 8 images, tolerance 0.005" in done.stdout
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["is_right"] and told["weights"] == "float16"
    rows = {row["runtime"]: row for row in told["rows"]}
    assert tuple(rows) == runtimes.NAMES
    for name, row in rows.items():
        assert 1e-6 < row["difference"] < 5e-3 and row["from_native"] < 1e-5
        assert row["agreement"] == 1 and row["seconds"] > 0
        if name in EMULATED:
            assert row["sparse_kernels"] and row["work_ratio"] > 1.5
            assert row["instructions"] > 1e6
    assert rows["native"]["sparse_kernels"] == (not HAS_AVX)
    assert "dense twin" in rows["wasm"]["evidence"]  # how it is known; a time decides
    assert {"qemu-aarch64", "chromium", "@litertjs/core"} <= set(told["versions"])


def test_verify_tool_fails_with_a_wrong_file(tmp_path):
    """Without Keras: refused under the emulators, wrong in the browser."""
    path = tmp_path / "head.tflite"
    path.write_bytes(runtime_files.content("conv", sparse=True))
    done = run_tool(f"--model={path}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "compared with native on 8 random inputs" in done.stdout
    assert "arm64: XNNPack delegate failed to reshape runtime" in done.stdout
    assert "wasm: wrong outputs: max|difference| / max|y| to native" in done.stdout


def test_benchmark(tmp_path):
    """Counts, kernels and turns on all four; a wrong file gets no ratio."""
    files = runtime_files.write(tmp_path, "float32 sparse", "float16 sparse")
    head = tmp_path / "head.tflite"
    head.write_bytes(runtime_files.content("conv", sparse=True))
    found = export.benchmark(
        [*files.values(), head],
        runtimes=runtimes.NAMES,
        threads=(1, 2),
        repeats=4,
        emulated_repeats=2,
        warmup=1,
    )
    rows = {(row.runtime, row.threads, row.file): row for row in found.rows}
    threads = {name: (1,) if name in EMULATED else (1, 2) for name in runtimes.NAMES}
    names = [found.baseline, *(path.name for path in (*files.values(), head))]
    assert list(rows) == [
        (runtime, number, name)
        for runtime in runtimes.NAMES
        for number in threads[runtime]
        for name in names
    ]
    for (runtime, _, name), row in rows.items():
        if name == "head.tflite":
            right = runtime == "native" and HAS_AVX
            assert (row.trouble == "") == (row.faster is not None) == right
            continue
        assert row.trouble == "" and (row.faster is None) == (name == names[0])
        assert row.seconds.number == (2 if runtime in EMULATED else 4)
        if runtime in EMULATED:
            assert row.sparse_kernels == (name != names[0])
            assert any("SPMM" in kernel for kernel in row.shares) == row.sparse_kernels
            assert name == names[0] or row.fewer > 2
        if runtime == "wasm":
            assert row.operators is None
    assert not found.is_right and "head.tflite: wrong outputs" in str(found)


def test_the_guide_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    guide = (ROOT / "docs" / "runtimes.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    files = runtime_files.write(tmp_path, "float32", "float32 sparse")
    files["float32"].rename(tmp_path / "dense.tflite")
    files["float32 sparse"].rename(tmp_path / "sparse.tflite")
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "runtimes.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [name, f"{kind}.tflite"]
        for name in runtimes.NAMES
        for kind in ("dense", "sparse")
    ]
    assert all("(2, 10)" in line for line in lines)
    assert lines[5].endswith(" True")  # sparse kernels, on Arm


def test_setup_finds_everything_there():
    setup = ROOT / "tools" / "setup_runtimes.sh"
    done = subprocess.run(
        [str(setup)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
    )
    assert done.stdout == f"the runtimes are set up in {runtimes.installed.home()}\n"
