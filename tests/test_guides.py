"""The guides for phones: their Kotlin and Swift parse, and name what exists.

No phone, Android SDK or Mac is at hand; docs/ says what was checked beyond this.
"""

import json
import pathlib
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from export_models import fill, sparse_cnn

import str_keras as stk
from str_keras import data, export

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"

# Public members in LiteRT's repository at revision f674577: litert/kotlin,
# litert/kotlin/src/copied_from_tflite, litert/swift, tflite/swift.
KOTLIN = {
    "Accelerator": {"CPU", "GPU", "NPU"},
    "CompiledModel": {"create", "createInputBuffers", "createOutputBuffers", "run"}
    | {"close", "Options", "CpuOptions"},
    "CompiledModel.Options": {"cpuOptions", "gpuOptions"},
    "CompiledModel.CpuOptions": {"numThreads"},
    "TensorBuffer": {"writeFloat", "readFloat", "writeInt8", "close"},
    "Interpreter": {"run", "Options", "close"},
    "Interpreter.Options": {"setNumThreads", "setUseXNNPACK"},
}
SWIFT = {
    "Interpreter": {"init(modelPath:options:)", "allocateTensors()", "invoke()"}
    | {"copy(_:toInputAt:)", "output(at:)", "Options"},
    "Interpreter.Options": {"threadCount", "isXNNPackEnabled"},
    "Tensor": {"data"},
    "CompiledModel": {"init(filePath:environment:options:)", "createInputBuffers()"}
    | {"createOutputBuffers()", "run(inputs:outputs:)"},
    "Options": {"setHardwareAccelerators(_:)", "addOpaqueOptions(_:)"},
    "OpaqueOptions": {"init(identifier:payload:destructor:)"},
    "TensorBuffer": {"write(_:)", "read()"},
}
# Flags of both programs, litert/tools and tflite/tools/benchmark there.
FLAGS = {"graph", "num_threads", "num_runs", "warmup_runs", "min_secs", "use_cpu"}
FLAGS |= {"use_profiler", "use_xnnpack", "enable_op_profiling", "input_layer"}
FLAGS |= {"input_layer_shape", "input_layer_value_files", "output_filepath"}


def snippets(guide, language):
    found = re.findall(rf"```{language}\n(.*?)```", (DOCS / guide).read_text(), re.S)
    assert found
    return found


def parse(language, code):
    sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip(f"tree_sitter_{language}")
    tree = sitter.Parser(sitter.Language(grammar.language())).parse(code.encode())
    return tree.root_node


def nodes(node, kind):
    if node.type == kind:
        yield node
    for child in node.children:
        yield from nodes(child, kind)


@pytest.mark.parametrize(
    ("guide", "language"), [("android.md", "kotlin"), ("ios.md", "swift")]
)
def test_snippets_parse(guide, language):
    for code in snippets(guide, language):
        root = parse(language, code)
        assert not root.has_error, root
    broken = code.replace("(", "", 1).replace("{", "", 1)
    assert parse(language, broken).has_error


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """model.tflite and model.json of a network of three channels."""
    folder = tmp_path_factory.mktemp("assets")
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    fill(model, 0.5)
    preprocessing = data.Preprocessing(
        32, "center_crop", 0.875, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    )
    names = [f"class {i}" for i in range(10)]
    options = {"class_names": names, "preprocessing": preprocessing}
    export.tflite(model, folder / "model.tflite", **options)
    export.tflite(model, folder / "raw.tflite", uint8_input=True, **options)
    return folder


def test_android_names_what_is_written_and_what_litert_has(written):
    description = json.loads((written / "model.json").read_text())
    code = "\n".join(snippets("android.md", "kotlin"))
    used = re.findall(r'(\w+)\.get(\w+)\("(\w+)"\)', code)
    assert {key for _, _, key in used} >= {"mean", "std", "image_size", "labels"}
    kinds = {"JSONObject": dict, "JSONArray": list, "Int": int, "Double": float}
    for owner, kind, key in used:
        holder = description if owner == "description" else description[owner]
        assert isinstance(holder[key], kinds[kind]), key
    for name in re.findall(r'"(model\.\w+)"', code):
        assert (written / name).is_file()
    for called in re.findall(r"\b(?:model|inputs\[0\]|outputs\[0\])\.(\w+)\(", code):
        assert called in KOTLIN["CompiledModel"] | KOTLIN["TensorBuffer"], called
    for called in re.findall(r"\binterpreter\.(\w+)\(", code):
        assert called in KOTLIN["Interpreter"], called
    for owner, members in KOTLIN.items():
        for member in re.findall(rf"\b{re.escape(owner)}(?:\(\))?\.(\w+)", code):
            assert member in members, f"{owner}.{member}"
    assert "numThreads = threads" in code and "cpuOptions = " in code


def test_tables_of_the_android_guide_hold(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets("android.md", "python")
    exec(snippet, {"stk": stk, "model": sparse_cnn()})
    assert (tmp_path / "model.tflite").is_file()
    by_snippet = json.loads((tmp_path / "model.json").read_text())
    description = json.loads((written / "model.json").read_text())
    raw = json.loads((written / "raw.json").read_text())
    text = (DOCS / "android.md").read_text()
    table = text[text.index("| key |") : text.index("Put both into")]
    paths = re.findall(r"^\| (`.*?) \|", table, re.M)
    assert len(paths) == 5
    for path in paths:
        first, *rest = re.findall(r"`([\w.]+)`", path)
        parent = first.rsplit(".", 1)[0]
        for name in [first, *(r if r[0] != "." else parent + r for r in rest)]:
            holder = description
            for key in name.split("."):
                assert key in holder, name
                holder = holder[key]
    assert by_snippet.keys() == description.keys()
    assert by_snippet["preprocessing"].keys() == description["preprocessing"].keys()
    assert description["input"]["name"] == "tensors"
    assert description["input"]["dtype"] == "float32"
    assert description["input"]["shape"] == [1, 32, 32, 3]
    assert (raw["input"]["name"], raw["input"]["dtype"]) == ("images", "uint8")
    assert description["output"]["name"] == "logits"


def test_ios_names_what_is_written_and_what_the_packages_have(written):
    description = json.loads((written / "model.json").read_text())
    code = "\n".join(snippets("ios.md", "swift"))
    decoded = re.search(r"struct Description.*?\n}\n", code, re.S).group()
    kinds = {"Int": int, "[Float]": list, "[String]": list, "Preprocessing": dict}
    fields = re.findall(r"let (\w+): (\S+)", decoded)
    assert len(fields) == 5
    for name, kind in fields:
        holder = description if name in description else description["preprocessing"]
        assert isinstance(holder[name], kinds[kind]), name
    for stem, suffix in re.findall(
        r'forResource: "(\w+)", (?:ofType|withExtension): "(\w+)"', code
    ):
        assert (written / f"{stem}.{suffix}").is_file()
    assert set(re.findall(r"\boptions\.(\w+) =", code)) <= SWIFT["Interpreter.Options"]


def signatures(code):
    """Calls in Swift as `name(label:_:)`; an initializer by the name of its type."""
    for call in nodes(parse("swift", code), "call_expression"):
        name = re.split(r"[^\w]", call.children[0].text.decode())[-1]
        labels = ""
        for argument in call.children[-1].children[0].children:
            if argument.type == "value_argument":
                first = argument.children[0]
                labelled = first.type == "value_argument_label"
                labels += f"{first.text.decode() if labelled else '_'}:"
        yield name, f"{name}({labels})"


def test_swift_calls_are_those_of_the_packages():
    known = {
        member.replace("init", owner, 1) if member.startswith("init") else member
        for owner, members in SWIFT.items()
        for member in members
        if "(" in member
    }
    named = {signature.split("(")[0] for signature in known}
    known |= {"Options()", "Environment()"}
    code = "\n".join(snippets("ios.md", "swift"))
    called = [signature for name, signature in signatures(code) if name in named]
    assert set(called) <= known, set(called) - known
    assert len(set(called)) > 12
    wrong = code.replace("toInputAt", "toInput")
    assert any(s not in known for name, s in signatures(wrong) if name == "copy")


def test_flags_of_the_benchmark_exist():
    text = (DOCS / "phone_benchmark.md").read_text()
    tool = "\n".join(re.findall(r"benchmark_model \\?\n?(?:.*\\\n)*.*", text))
    used = set(re.findall(r"--(\w+)", tool)) - {"config"}
    assert used <= FLAGS and "enable_op_profiling" in used
    named = set(re.findall(r"`--(\w+)", text))
    assert named <= FLAGS


@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="needs kotlinc")
@pytest.mark.slow
def test_kotlin_normalizes_as_python(tmp_path):
    (code,) = [c for c in snippets("android.md", "kotlin") if "Normalize.kt" in c]
    (tmp_path / "Normalize.kt").write_text(code)
    (tmp_path / "Main.kt").write_text(
        "import com.example.classifier.normalize\n"
        "fun main() = println(normalize(intArrayOf(-16088834, 66051), "
        "floatArrayOf(.4f, .5f, .6f), floatArrayOf(.2f, .3f, .25f)).joinToString())\n"
    )
    command = ["kotlinc", "-include-runtime", "-d", "m.jar", "Normalize.kt", "Main.kt"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        ["java", "-jar", "m.jar"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    pixels = np.array([[10, 128, 254], [1, 2, 3]], "uint8")  # -16088834 is 0xFF0A80FE
    preprocessing = data.Preprocessing(
        2, "center_crop", 0.875, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    )
    expected = np.asarray(preprocessing.normalize(pixels)).ravel()
    outputs = [float(value) for value in done.stdout.split(",")]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
