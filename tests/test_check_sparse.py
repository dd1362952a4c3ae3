"""Each rule of sparse inference is named when it alone is broken."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import sparse_cases
import sparse_models

from str_keras import export
from str_keras.export import check_commands, kinds, rewrite, xnnpack

ROOT = pathlib.Path(__file__).parents[1]


def told(found):
    return {target: (v.kind, v.rule) for target, v in found.verdicts.items()}


def runs(kind, rule=""):
    """Verdicts of a file that is right everywhere."""
    expected = dict.fromkeys(sparse_cases.WITH_KERNELS, (kind, rule))
    return expected | {"x86_avx": ("dense", "cpu")}


@pytest.mark.parametrize("case", sparse_cases.CASES)
def test_each_rule_flips_the_verdict_and_is_named(case):
    """That the verdicts are true is shown in test_check_sparse_device.py."""
    expected = sparse_cases.verdicts(case)
    found = xnnpack.check(sparse_cases.content(case))
    assert told(found) == expected
    kinds_found = [kind for kind, _ in expected.values()]
    safe = set(kinds_found) <= {"sparse", "dense"}
    assert found.is_safe == safe
    assert found.is_sparse == (kinds_found == ["sparse"] * 3 + ["dense"])
    if found.is_sparse:
        assert found.sparse_share == 1 and not found.failures
    unsafe = [v for v in found.verdicts.values() if v.kind in ("refused", "wrong")]
    verdict, text = [*unsafe, found.verdicts["arm"]][0], str(found)
    assert verdict.rule in text and verdict.mend in text and verdict.reason in text
    assert bool(verdict.reason and verdict.mend) == (verdict.kind != "sparse")
    if found.is_safe:
        assert xnnpack.refuse_unsafe(sparse_cases.content(case)) == found
    else:
        with pytest.raises(export.ExportError, match=f"rule '{verdict.rule}'"):
            xnnpack.refuse_unsafe(sparse_cases.content(case))


def test_what_comes_before_the_first_convolution_is_no_failure():
    net = sparse_models.network(stem=lambda x: sparse_models.stem(x - 0.25))
    model = sparse_models.prune(net)
    found = xnnpack.check(sparse_models.to_tflite(model))
    (before,) = [n for n in found.nodes if n.spatial and not n.holds]
    assert before.rule == "operator" and found.is_sparse and not found.failures
    assert "operator" not in str(found)


@pytest.mark.parametrize("case", ["two thirds of zeros", "one zero more"])
def test_zeros_are_counted(case):
    (cluster,) = xnnpack.check(sparse_cases.content(case)).clusters
    zeros = sparse_cases.ZEROS + (case == "one zero more")
    assert (cluster.params, cluster.zeros) == (sparse_models.WEIGHTS, zeros)
    assert cluster.share == zeros / sparse_models.WEIGHTS
    assert cluster.passes == cluster.sparse == (case == "one zero more")
    assert cluster.nodes[0] == "stem"


def test_one_kernel_stored_sparse_is_enough():
    """And which one does not matter; nor does the type of it."""
    content = sparse_cases.content("stored dense")

    def stored(dtype, operator):
        return rewrite.store(
            content, lambda w: rewrite.Storage(dtype, w.operator == operator)
        )

    for operator in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        for dtype in ("float32", "float16", "int8"):
            found = xnnpack.check(stored(dtype, operator))
            assert told(found) == runs("sparse"), (dtype, operator)


def test_a_model_is_checked_as_it_would_be_written(tmp_path):
    """Through the exact rewrites, so that fewer rules are left to break."""
    model = sparse_cases.model("odd extents")
    found = export.check_sparse(model)
    assert told(found) == runs("sparse")
    layers = [layer.name for layer in model.layers]
    convolutions = [n.name for n in found.nodes if n.kind in ("conv", "depthwise")]
    assert convolutions == [n for n in layers if "depthwise" in n or n == "stem"]
    assert found.nodes[-1].name == "classes"

    path = tmp_path / "model.keras"
    model.save(path)
    assert export.check_sparse(path) == found
    written = export.tflite(model, tmp_path / "model.tflite", sparse=True)
    assert export.check_sparse(str(tmp_path / "model.tflite")) == found
    assert written.runs == {t: v.kind for t, v in found.verdicts.items()}
    assert written.note == ""

    dense = sparse_models.prune(sparse_models.network(), 0)
    assert told(export.check_sparse(dense)) == runs("dense", "zeros")


@pytest.mark.parametrize(
    ("case", "rule", "told"),
    [
        ("maximal pool inside", "operator", "wrong, without a word, on arm, wasm"),
        ("no end", "output", "store the file dense"),
        ("pooled output", "pooled_output", "keepdims"),
    ],
)
def test_what_would_be_wrong_somewhere_is_not_written(tmp_path, case, rule, told):
    model, path = sparse_cases.model(case), tmp_path / "model.tflite"
    with pytest.raises(export.ExportError, match=f"rule '{rule}'") as caught:
        export.tflite(model, path, sparse=True)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert set(export.tflite(model, path).runs.values()) == {"dense"}


def test_a_sparse_file_that_runs_dense_is_told(tmp_path):
    model = sparse_cases.model("stem stride 1")
    report = export.tflite(model, tmp_path / "model.tflite", sparse=True)
    assert (
        "dense kernels everywhere: stem: a 3x3 convolution of stride 1x1" in report.note
    )
    assert report.note in export.report_table([report])
    beside = json.loads((tmp_path / "model.json").read_text())
    assert beside["runs"] == report.runs == dict.fromkeys(xnnpack.TARGETS, "dense")


def run_tool(*arguments, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "tools/check_sparse.py", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )


@pytest.mark.slow
def test_tool(tmp_path):
    path, json_path = tmp_path / "passing.tflite", tmp_path / "found.json"
    path.write_bytes(sparse_cases.content("passing"))
    done = run_tool(f"--model={path}", f"--json={json_path}")
    assert done.returncode == 0, done.stderr
    assert "57,600" in done.stdout and "90.00%" in done.stdout
    found = json.loads(json_path.read_text())
    assert found["is_sparse"] and found["clusters"][0]["share"] == 0.9
    assert found["verdicts"]["wasm"]["kind"] == "sparse"
    assert found["nodes"][0]["name"] == "stem"
    done = run_tool("--model=none.tflite")
    assert done.returncode == 1 and "none.tflite" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("case", "require", "status"),
    [
        ("passing", "sparse", 0),
        ("gray", "sparse", 1),
        ("gray", "safe", 0),
        ("1x1 head", "safe", 1),
        ("1x1 head", "nothing", 0),
    ],
)
def test_the_status_says_what_is_required(tmp_path, capsys, case, require, status):
    path = tmp_path / "model.tflite"
    path.write_bytes(sparse_cases.content(case))
    assert check_commands.check_file(str(path), require=require) == status
    assert capsys.readouterr().out == f"{xnnpack.check(path.read_bytes())}\n"


def test_bad_values_are_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(sparse_cases.content("gray"))
    with pytest.raises(ValueError, match="--require=all"):
        check_commands.check_file(str(path), require="all")
    with pytest.raises(ValueError, match=r"no \.tflite"):
        check_commands.check_file(__file__)


@pytest.mark.slow
def test_a_file_is_checked_without_tensorflow(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(sparse_cases.content("passing"))
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import str_keras as stk\n"
        f"print(stk.export.check_sparse({str(path)!r}).is_sparse)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("content", [b"", b"0123TFL3", b"zip" * 100])
def test_what_is_no_tflite(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\.tflite"):
        export.check_sparse(path)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export.check_sparse(3)
    with pytest.raises(AttributeError, match="no attribute 'check'"):
        export.check  # noqa: B018


def test_kinds_that_are_written_are_safe():
    dense = sparse_cases.with_zeros(0.9, sparse=False)
    for kind in kinds.KINDS:
        if kind.weights != "int8":
            found = xnnpack.check(kinds.encode(dense, kind).content)
            assert found.is_safe and found.is_sparse == kind.sparse, kind.name
