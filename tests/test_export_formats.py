"""ONNX and OpenVINO files: their own runtimes load them and give Keras' outputs."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_models import fill, nonzeros, sparse_cnn

import str_keras as stk
from str_keras import cli, data, export
from str_keras.checkpoint import load_model
from str_keras.export import format_commands, onnx_graph

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = {72: (7, 72), 2048: (205,), 2560: (256,)}  # size: non-zeros, of sparse_cnn
FORMATS = {"onnx": "onnx", "openvino": "xml"}
layers = keras.layers


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "true")  # OpenVINO's converter tells of its use elsewhere


@pytest.fixture(params=list(FORMATS))
def name(request):
    pytest.importorskip("onnxruntime" if request.param == "onnx" else "openvino")
    return request.param


def write(name, model, folder, **options):
    path = folder / f"m.{FORMATS[name]}"
    return path, getattr(export, name)(model, path, **options)


def run_alone(name, path):
    """A function of the runtime only, the JSON in the file, and its large constants."""
    if name == "onnx":
        import onnx
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        text = session.get_modelmeta().custom_metadata_map["str_keras"]
        constants = map(
            onnx.numpy_helper.to_array, onnx.load(str(path)).graph.initializer
        )
        return lambda x: session.run(["logits"], {"tensors": x})[0], text, constants
    import openvino

    model = openvino.Core().read_model(str(path))
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", hint)
    nodes = [n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"]
    text = model.get_rt_info("str_keras").astype(str)
    return lambda x: compiled({"tensors": x})["logits"], text, [n.data for n in nodes]


def test_files_equal_keras(tmp_path, name):
    """A sparsified model as load_model gives it, which Keras alone would refuse."""
    stk.sparsify(sparse_cnn(), s_init=-40.0).save(tmp_path / "m.keras")
    source = data.load("fashion_mnist_5k")
    images, labels = source.raw("test", 36)
    model = load_model(tmp_path / "m.keras")
    path, report = write(
        name,
        model,
        tmp_path / "new",
        images=images,
        labels=labels,
        class_names=source.info.class_names,
        preprocessing=source.preprocessing,
    )
    files = sorted(path.parent.iterdir())
    assert [f.suffix for f in files] == (
        [".onnx"] if name == "onnx" else [".bin", ".xml"]
    )
    assert report.bytes == sum(f.stat().st_size for f in files)
    assert 0 < report.gzip_bytes < report.bytes / 2
    plain = stk.strip(model)
    assert report.nonzeros == report.model_nonzeros == nonzeros(plain) == 540
    assert (report.params, report.agreement) == (4752, 1.0)
    assert report.difference < 1e-5
    assert report.top1 == report.model_top1 is not None
    assert (report.verified_on, report.verified_with) == (36, "images")

    run, text, constants = run_alone(name, path)
    inputs = np.asarray(source.preprocessing.normalize(images))
    expected = plain.predict(inputs, verbose=0)
    for batch in (1, 3, 32):
        outputs = run(inputs[:batch])
        np.testing.assert_allclose(outputs, expected[:batch], rtol=1e-4, atol=1e-5)
    described = json.loads(text)
    assert described["labels"] == list(source.info.class_names)
    assert described["preprocessing"] == source.preprocessing.to_json()
    found = {}
    for values in constants:
        if values.size in KERNELS:
            found.setdefault(values.size, []).append(np.count_nonzero(values))
    assert {size: tuple(sorted(n)) for size, n in found.items()} == KERNELS
    table = export.report_table([report])
    assert "float32" in table and path.name in table
    if name == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(str(path), "CPU")
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert ("without a hint" in report.note) == (precision != "f32")
        assert (f" {precision} " in report.note) == (precision != "f32")


def test_what_differs_or_lost_a_zero_is_not_written(tmp_path, name, monkeypatch):
    path, _ = write(name, sparse_cnn(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="overwrite"):
        write(name, sparse_cnn(), tmp_path)
    original = keras.Model.export

    def changed(change):
        def export_changed(model, *args, **kwargs):
            kept = model.get_weights()
            model.set_weights([change(w) for w in kept])
            original(model, *args, **kwargs)
            model.set_weights(kept)

        return export_changed

    def larger(weight):
        return weight * 1.01

    def without_zeros(weight):
        return np.where(weight == 0, 1e-9, weight) if weight.ndim > 1 else weight

    for change, said in [(larger, "differs from Keras"), (without_zeros, "zeros were")]:
        monkeypatch.setattr(keras.Model, "export", changed(change))
        with pytest.raises(export.ExportError, match=said) as caught:
            write(name, sparse_cnn(), tmp_path, overwrite=True)
        assert "\n" not in str(caught.value)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    monkeypatch.setattr(keras.Model, "export", original)
    write(name, sparse_cnn(sparsity=0.5), tmp_path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(before)
    assert path.read_bytes() != before[path.name] or name == "openvino"


def test_kernels_of_other_layers_are_counted(tmp_path, name):
    unroll = name == "openvino"
    inputs = keras.Input((6, 4))
    x = layers.GRU(5, return_sequences=True, unroll=unroll)(inputs)
    x = layers.LSTM(3, return_sequences=True, unroll=unroll)(x)
    x = layers.Conv1DTranspose(4, 3)(x)
    x = layers.SeparableConv1D(7, 3)(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    fill(model, 0.75)
    _, report = write(name, model, tmp_path)
    if name == "onnx":
        import onnx

        stored = onnx_graph.read_kernels(onnx.load(report.path))
    else:
        import openvino

        module = importlib.import_module("str_keras.export.to_openvino")
        stored = module.read_kernels(openvino.Core().read_model(report.path))
    # An unrolled layer's kernel is stored once a step: the kinds are compared.
    kernels = [
        w.numpy() for w in model.weights if len(w.shape) > 1 and "bias" not in w.path
    ]
    expected = {(k.size, np.count_nonzero(k)) for k in kernels}
    assert {(k.size, k.nonzeros) for k in stored} == expected


def test_openvino_on_a_full_disk(tmp_path, monkeypatch):
    """It raises a RuntimeError, and its weights are a file as well."""
    openvino = pytest.importorskip("openvino")

    original = openvino.serialize

    def full(model, path, *args):
        if str(tmp_path) in str(path):  # the converter writes to another folder
            raise RuntimeError("basic_ios::clear: iostream error")
        original(model, path, *args)

    monkeypatch.setattr(openvino, "serialize", full)
    with pytest.raises(OSError, match="cannot write"):
        export.openvino(sparse_cnn(), tmp_path / "m.xml")
    assert not list(tmp_path.iterdir())
    (tmp_path / "m.bin").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"m\.bin"):
        export.openvino(sparse_cnn(), tmp_path / "m.xml")
    assert (tmp_path / "m.bin").read_bytes() == b"mine"


def test_a_loop_is_refused_by_openvino_in_one_line(tmp_path):
    pytest.importorskip("openvino")
    model = keras.Sequential([keras.Input((6, 4)), layers.LSTM(5), layers.Dense(2)])
    with pytest.raises(export.ExportError, match="unroll=True") as caught:
        export.openvino(model, tmp_path / "m.xml")
    assert "TensorList" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_tf2onnx_leaves_is_refused_in_one_line(tmp_path):
    """A grouped convolution: the checker's own error is no ExportError."""
    pytest.importorskip("onnxruntime")
    model = keras.Sequential([keras.Input((9, 9, 8)), layers.Conv2D(16, 3, groups=2)])
    with pytest.raises(export.ExportError, match="tf2onnx refused") as caught:
        export.onnx(model, tmp_path / "m.onnx")
    assert "StatefulPartitionedCall" in str(caught.value)
    assert "unroll" not in str(caught.value)  # there is no recurrent layer
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"path": "m.tflite"}, ValueError, "must end in"),
        ({"missing": True}, ModuleNotFoundError, "pip install 'str_keras"),
        ({"tolerance": -1.0}, ValueError, "tolerance=-1.0"),
        ({"images": np.zeros((2, 3, 3, 1), "float32")}, ValueError, r"\(2, 3, 3, 1\)"),
        ({"labels": [1, 2]}, ValueError, "`labels`"),
        ({"class_names": ["one"]}, ValueError, "1 names"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, name, options, error, said):
    options = dict(options)
    path = tmp_path / options.pop("path", f"m.{FORMATS[name]}")
    if options.pop("missing", False):
        module = "tf2onnx" if name == "onnx" else "openvino"
        monkeypatch.setitem(sys.modules, module, None)
        said += rf"\[{name}\]"
    elif path.suffix != ".tflite":
        pytest.importorskip("onnxruntime" if name == "onnx" else "openvino")
    with pytest.raises(error, match=said):
        getattr(export, name)(sparse_cnn(), path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tools(tmp_path, name):
    sparse_cnn().save(tmp_path / "m.keras")
    output = f"m.{FORMATS[name]}"
    command = [sys.executable, str(ROOT / "tools" / f"convert_{name}.py")]
    command += ["--model=m.keras", f"--output={output}", "--dataset=fashion_mnist_5k"]
    command += ["--num_images=16"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "16 images" in done.stdout and not done.stderr
    assert (tmp_path / output).is_file()


def test_commands_say_what_is_missing(tmp_path, monkeypatch, capsys):
    sparse_cnn().save(tmp_path / "m.keras")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    arguments = {"dataset": "", "data_dir": None, "num_images": 8, "overwrite": False}

    def main():
        paths = (str(tmp_path / "m.keras"), str(tmp_path / "m.onnx"))
        return format_commands.convert_format(export.onnx, *paths, **arguments)

    with pytest.raises(SystemExit) as caught:
        cli.run(main, ["convert_onnx"])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: this export needs ")
    assert "onnxruntime" in line and "pip install 'str_keras[onnx]'" in line
