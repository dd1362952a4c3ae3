"""Every snippet of README runs as it stands."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="README is for TensorFlow"
    ),
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")  # OpenVINO's converter tells of its use elsewhere
    code = "\n".join(blocks("python"))
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "plain.keras",
        "model.tflite",
        "model.json",
        "model",
        "model.onnx",
        "model.xml",
        "model.bin",
        "dense.zeros.json",
    }
    assert names["model"](names["images"].raw("test", 2)[0]).shape == (2, 10)
    printed = capsys.readouterr().out
    assert "threshold by decay alone" in printed  # the forecast
    assert "all weights" in printed  # the summary
    assert "model.tflite" in printed  # the export's table
    assert "ONNX float32" in printed and "OpenVINO float32" in printed


def test_training_commands_run(tmp_path):
    """In the order of README, with one epoch and folders of the test's own."""
    (block,) = [b for b in blocks("sh") if "str_keras.train" in b]
    for line in block.splitlines():
        line = line.replace("=runs/", f"={tmp_path}/")
        arguments = shlex.split(line)
        assert arguments[0] == "python"
        if "str_keras.train" in arguments:
            arguments.append("--epochs=1")
        done = subprocess.run(
            [sys.executable, *arguments[1:]],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        # A program shows its own lines, not those of the libraries below it.
        assert "cpu_feature_guard" not in done.stderr
    assert (tmp_path / "str" / "report" / "index.html").is_file()
    assert (tmp_path / "str.tflite").is_file() and (tmp_path / "served").is_dir()


def test_files_that_readme_names_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
