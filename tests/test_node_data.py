"""The share of zeros per operator, as Model Explorer reads it."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import pytest
from export_models import fill, sparse_cnn

from str_keras import export

ROOT = pathlib.Path(__file__).resolve().parent.parent
# sparse_cnn has 7 of 72, 72 of 72, 205 of 2,048 and 256 of 2,560 non-zeros.
SHARES = [round(65 / 72, 4), 0.0, round(1843 / 2048, 4), 0.9]


def recurrent():
    inputs = keras.Input((6, 4))
    x = keras.layers.LSTM(5)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    fill(model, 0.75)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sparse": True},
        {"weights": "float16"},
        {"weights": "float16", "sparse": True},
    ],
    ids=str,
)
def test_shares_of_each_operator(tmp_path, options):
    path, output = tmp_path / "m.tflite", tmp_path / "new" / "m.zeros.json"
    export.tflite(sparse_cnn(), path, **options)
    shares = export.node_data(path, output)
    assert list(shares) == ["main"]
    assert list(shares["main"].values()) == SHARES
    written = json.loads(output.read_text())
    assert {k: v["value"] for k, v in written["main"]["results"].items()} == shares[
        "main"
    ]
    with pytest.raises(FileExistsError, match="overwrite"):
        export.node_data(path, output)
    assert export.node_data(path, output, overwrite=True) == shares
    again = tmp_path / "new" / ".." / "m.json"  # however it is spelled
    with pytest.raises(ValueError, match="describes the model"):
        export.node_data(path, again, overwrite=True)


def test_loops_have_graphs_of_their_own(tmp_path):
    export.tflite(recurrent(), tmp_path / "m.tflite")
    shares = export.node_data(tmp_path / "m.tflite", tmp_path / "n.json")
    (body,) = [name for name in shares if name != "main"]
    assert "while" in body and list(shares["main"].values()) == [0.8]  # 2 of 10 left
    assert sorted(shares[body].values()) == [0.75, 0.75]


# The fields of model_explorer.node_data_builder 0.1.34, and what each holds.
GRAPH = {"name": str, "results": dict, "thresholds": list}
ITEM = {"value": (int, float), "bgColor": str}


def test_format_is_the_documented_one(tmp_path):
    export.tflite(sparse_cnn(), tmp_path / "m.tflite")
    export.node_data(tmp_path / "m.tflite", tmp_path / "n.json")
    graphs = json.loads((tmp_path / "n.json").read_text())
    for graph in graphs.values():
        assert {k: type(v) for k, v in graph.items()} == GRAPH
        for item in [*graph["results"].values(), *graph["thresholds"]]:
            assert all(isinstance(value, ITEM[key]) for key, value in item.items())
        values = [item["value"] for item in graph["thresholds"]]
        assert values == sorted(values) and values[-1] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("model_explorer") is None,
    reason="needs pip install ai-edge-model-explorer (481 MB)",
)
def test_model_explorer_reads_it_and_finds_the_nodes(tmp_path):
    export.tflite(recurrent(), tmp_path / "m.tflite")
    export.node_data(tmp_path / "m.tflite", tmp_path / "n.json")
    code = """
import json, sys
from ai_edge_model_explorer_adapter import (
    ConvertFlatbufferDirectlyToJson, VisualizeConfig)
from model_explorer.node_data_builder import (
    GraphNodeData, ModelNodeData, NodeDataResult, ThresholdItem)

text = open("n.json").read()
graphs = {
    name: GraphNodeData(**{
        **graph,
        "results": {k: NodeDataResult(**v) for k, v in graph["results"].items()},
        "thresholds": [ThresholdItem(**item) for item in graph["thresholds"]],
    })
    for name, graph in json.loads(text).items()
}
ours = json.loads(text)
for name, graph in json.loads(ModelNodeData(graphs).to_json_string()).items():
    assert graph.items() >= ours[name].items()
    assert not any(v for k, v in graph.items() if k not in ours[name])
collections = json.loads(ConvertFlatbufferDirectlyToJson(VisualizeConfig(), "m.tflite"))
found = {graph["id"]: graph for c in collections for graph in c["subgraphs"]}
for name, graph in ours.items():
    names = {
        attribute["value"].rstrip("\\0")
        for node in found[name]["nodes"]
        for tensor in node.get("outputsMetadata", [])
        for attribute in tensor["attrs"] if attribute["key"] == "tensor_name"
        if node["label"] == "fully_connected"
    }
    assert set(graph["results"]) == names, (set(graph["results"]), names)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_tool(tmp_path):
    export.tflite(sparse_cnn(), tmp_path / "m.tflite")
    command = [sys.executable, str(ROOT / "tools" / "node_data.py"), "--output=n.json"]
    for model, status, said in [("m.tflite", 0, "90.28%"), ("m.json", 1, "TFL3")]:
        done = subprocess.run(
            [*command, f"--model={model}", "--overwrite"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert said in (done.stderr if status else done.stdout)
