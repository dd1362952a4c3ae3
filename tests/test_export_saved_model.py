"""SavedModel in a fresh process, and the command lines of export."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_models import nonzeros, sparse_cnn

import str_keras as stk
from str_keras import cli, data, export
from str_keras.export import commands, convert, targets

ROOT = pathlib.Path(__file__).resolve().parent.parent
to_saved_model = importlib.import_module("str_keras.export.to_saved_model")


@pytest.fixture(scope="module")
def dataset():
    return data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def images(dataset):
    return dataset.raw("test", 40)[0]


def old_saved_model(path):
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    (path / "old.txt").write_text("old")


@pytest.mark.slow
def test_signatures_equal_keras(tmp_path, dataset, images):
    model, path = sparse_cnn(dtype="mixed_float16"), tmp_path / "new" / "served"
    old_saved_model(path)
    report = export.saved_model(
        model,
        path,
        overwrite=True,
        preprocessing=dataset.preprocessing,
        images=images,
        class_names=dataset.info.class_names,
    )
    assert report.signatures == ("serving_default", "serve_images")
    assert (report.verified_on, report.verified_with) == (40, "images")
    assert report.difference < 1e-4
    assert report.agreement == 1.0
    assert report.nonzeros == nonzeros(model) == 540
    files = [p for p in path.rglob("*") if p.is_file()]
    assert report.bytes == sum(p.stat().st_size for p in files)
    assert 0 < report.gzip_bytes < report.bytes
    assert [p.name for p in path.parent.iterdir()] == ["served"]
    assert not (path / "old.txt").exists()
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    elements = sum(np.prod(shape, dtype=int) for _, shape in stored if shape)
    assert elements == model.count_params()  # each weight once
    extra = json.loads((path / "assets.extra" / "export.json").read_text())
    assert extra["labels"] == list(dataset.info.class_names)
    assert extra["preprocessing"] == dataset.preprocessing.to_json()
    assert "SavedModel" in export.report_table([report])

    loaded = tf.saved_model.load(str(path))
    small = np.ascontiguousarray(images[:3, 4:-4, 4:-4])  # 24x24: other sizes are fine
    served = loaded.signatures["serve_images"](images=tf.constant(small))["logits"]
    tensors = dataset.preprocessing.normalize(dataset.preprocessing.resize(small))
    expected = loaded.signatures["serving_default"](tensors=tensors)["logits"]
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-5)
    reference = np.asarray(model(tensors), "float32")
    assert np.abs(expected - reference).max() < 2e-2 * np.abs(reference).max()


BATCHES = """
import sys
import numpy as np, tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
results = {}
with np.load(sys.argv[2]) as arrays:
    for name, function in loaded.signatures.items():
        (_, arguments) = function.structured_input_signature
        ((argument, spec),) = arguments.items()
        assert spec.shape[0] is None, spec
        for batch in (1, 3, 32):
            outputs = function(**{argument: tf.constant(arrays[argument][:batch])})
            results[f"{name}.{batch}"] = outputs["logits"].numpy()
assert "str_keras" not in sys.modules
np.savez(sys.argv[3], **results)
"""


@pytest.mark.slow
def test_batches_of_any_size_in_a_fresh_process(tmp_path, dataset, images):
    model, preprocessing = sparse_cnn(), dataset.preprocessing
    export.saved_model(
        model, tmp_path / "served", preprocessing=preprocessing, images=images
    )
    tensors = np.asarray(preprocessing.normalize(images))
    np.savez(tmp_path / "inputs.npz", images=images, tensors=tensors)
    command = [sys.executable, "-c", BATCHES, "served", "inputs.npz", "outputs.npz"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = model.predict(tensors, verbose=0)
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert len(outputs.files) == 6
        for key in outputs.files:
            batch = int(key.rsplit(".")[-1])
            error = np.abs(outputs[key] - expected[:batch]).max()
            assert outputs[key].shape == (batch, 10), key
            assert error < 1e-4 * np.abs(expected).max(), key


@pytest.mark.slow
def test_wrong_saved_models_are_deleted(tmp_path, monkeypatch):
    path = tmp_path / "served"
    old_saved_model(path)
    original = to_saved_model.write_saved_model

    def perturbed(model, endpoints, directory):
        for weight in model.weights:
            weight.assign(weight * 1.01)
        original(model, endpoints, directory)

    def damaged(model, endpoints, directory):
        original(model, endpoints, directory)
        content = (directory / "saved_model.pb").read_bytes()
        (directory / "saved_model.pb").write_bytes(content[: len(content) // 2])

    for write, said in [(perturbed, "differs"), (damaged, "does not run")]:
        monkeypatch.setattr(to_saved_model, "write_saved_model", write)
        with pytest.raises(export.ExportError, match=said) as caught:
            export.saved_model(sparse_cnn(), path, overwrite=True)
        assert "\n" not in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == ["served"]
        assert sorted(p.name for p in path.iterdir()) == ["old.txt", "saved_model.pb"]


def test_existing_directories_stay(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    (path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            export.saved_model(sparse_cnn(), path, overwrite=overwrite)
    with pytest.raises(NotADirectoryError, match="is a file"):
        export.saved_model(sparse_cnn(), path / "thesis.txt" / "served")
    assert [p.name for p in path.iterdir()] == ["thesis.txt"]


def test_what_was_there_comes_back_if_nothing_takes_its_place(tmp_path):
    path = tmp_path / "served"
    old_saved_model(path)
    with pytest.raises(OSError), targets.directory_aside(path):
        pass  # nothing was written that could be moved
    assert [p.name for p in tmp_path.iterdir()] == ["served"]
    assert (path / "old.txt").read_text() == "old"


def test_disk_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    endpoints = {"serve": (convert.as_given, convert.input_spec(sparse_cnn()))}
    with pytest.raises(OSError, match="cannot write"):
        convert.write_saved_model(sparse_cnn(), endpoints, tmp_path / "file" / "x")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A sparsified model on disk; `--model` of the tests below."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    stk.sparsify(sparse_cnn(sparsity=0.0), s_init=-0.9).save(path)  # g = 0.289
    return path


ARGUMENTS = {
    "weights": "float32",
    "sparse": False,
    "smallest": "file",
    "batch_size": 1,
    "dataset": "fashion_mnist_5k",
    "data_dir": None,
    "num_images": 32,
    "uint8_input": False,
    "tolerance": None,
    "overwrite": False,
}


@pytest.mark.slow
def test_all_kinds_and_their_table(tmp_path, saved, capsys):
    output = tmp_path / "model.tflite"
    arguments = {**ARGUMENTS, "weights": "all"}
    assert commands.convert_tflite(str(saved), str(output), **arguments) == 0
    kinds = ["float32", "float32-sparse", "float16", "float16-sparse", "int8"]
    kinds += ["int8_weights", "int8_weights-sparse"]
    expected = {f"model-{k}{e}" for k in kinds for e in (".json", ".tflite")}
    assert {p.name for p in tmp_path.iterdir()} >= expected | {"model-variants.json"}
    plain = stk.strip(keras.saving.load_model(saved))
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.split(" ")[0] in kinds]
    assert [row.split()[0] for row in rows] == kinds
    for kind, row in zip(kinds, rows, strict=True):
        size = (tmp_path / f"model-{kind}.tflite").stat().st_size
        assert f" {size:,} " in row
    assert f"{nonzeros(plain):,} of 4,752 weights" in table and "32 images" in table
    assert "smallest on disk" in table


def test_all_says_what_it_did_not_write(tmp_path, capsys):
    path = tmp_path / "model.keras"
    sparse_cnn("conv").save(path)
    arguments = {**ARGUMENTS, "weights": "all", "dataset": "", "batch_size": 0}
    assert commands.convert_tflite(str(path), str(tmp_path / "m.tflite"), **arguments)
    told = capsys.readouterr().out
    assert "int8 was not written: int8 needs" in told and "--dataset" in told
    assert (tmp_path / "m-float16-sparse.tflite").is_file()
    assert (tmp_path / "m-float16.tflite").is_file()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": "int4"}, "--weights=int4"),
        ({"weights": "dynamic"}, "does not load"),
        ({"weights": "float16", "smallest": "download"}, "sparse=True"),
        ({"num_images": -1}, "--num_images=-1"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"dataset": "no_such_set"}, "no_such_set"),
        ({"output": "model.onnx", "dataset": ""}, "must end in .tflite"),
        ({"output": "mine.tflite", "dataset": ""}, "--overwrite"),
        ({"output": "m.onnx", "dataset": "", "weights": "all"}, "--output=m.onnx"),
        ({"model": "missing.keras"}, "no such model"),
        ({"model": "truncated.keras"}, "truncated"),
        ({"model": "other.keras"}, "cannot load"),
        ({"output": "truncated.keras/m.tflite", "dataset": ""}, "is a file"),
    ],
)
def test_bad_values_are_one_line(tmp_path, saved, monkeypatch, capsys, changed, said):
    monkeypatch.chdir(tmp_path)
    content = saved.read_bytes()
    pathlib.Path("truncated.keras").write_bytes(content[: len(content) // 2])
    pathlib.Path("mine.tflite").write_text("mine")
    with zipfile.ZipFile("other.keras", "w") as archive:
        archive.writestr("readme.txt", "a zip file, but no model")
    arguments = {"model": str(saved), "output": "m.tflite", **ARGUMENTS, **changed}
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: commands.convert_tflite(**arguments), ["convert_tflite"])
    assert caught.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]
    assert sorted(os.listdir()) == ["mine.tflite", "other.keras", "truncated.keras"]


def run_tool(tool, directory, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.slow
def test_tools(tmp_path, saved):
    arguments = [f"--model={saved}", "--output=m.tflite", "--weights=float16"]
    arguments += ["--dataset=fashion_mnist_5k", "--num_images=16", "--uint8_input"]
    done = run_tool("convert_tflite", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "16 images" in done.stdout and "float16 uint8-in" in done.stdout
    assert (tmp_path / "m.tflite").is_file() and (tmp_path / "m.json").is_file()

    done = run_tool("convert_saved_model", tmp_path, f"--model={saved}", "--output=s")
    assert done.returncode == 0, done.stderr
    assert "8 random inputs" in done.stdout and "serving_default" in done.stdout
    assert (tmp_path / "s" / "saved_model.pb").is_file()
