"""Every snippet of README and of the guides runs as it stands."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = "README.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="README is for TensorFlow"
    ),
]

# The pages whose Python is run here, as one program a page, and the files that are
# there afterwards.
PAGES = {
    README: {"plain.keras", "model.tflite", "model.json"},
    "docs/channels.md": set(),
    "docs/device.md": {"model.tflite"},
    "docs/export.md": {"model", "model.onnx", "model.xml", "model.bin"}
    | {"files", "dense.zeros.json"},
    "docs/extend.md": set(),
    "docs/install.md": set(),
    "docs/paper.md": set(),
    "docs/recurrent.md": set(),
    "docs/target.md": set(),
    "docs/train.md": set(),
    "docs/wrap.md": {"plain.keras"},
}
# Half a minute and more each; README's snippets are part of the last.
LONG = {"docs/export.md", "docs/target.md", "docs/wrap.md"}
# Pages whose snippets other tests run: they want a model, or emulators.
ELSEWHERE = {
    "docs/android.md": "test_guides.py",
    "docs/runtimes.md": "test_device.py",
}
# What each page's snippets must have printed.
PRINTED = {
    README: ["threshold by decay alone", "all weights", "model.tflite"],
    "docs/channels.md": ["channels"],
    "docs/device.md": ["has the form for sparse kernels"],
    "docs/export.md": ["ONNX float32", "OpenVINO float32", "int8_weights-sparse"],
    "docs/paper.md": ["nonzeros=2492045"],
    "docs/target.md": ["gradient: to w: G, to pruned weights too"],
}


def blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def pages():
    return [README, *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.docs] if p in LONG else []) for p in PAGES],
)
def test_python_snippets_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")  # OpenVINO's converter tells of its use elsewhere
    code = "\n".join(blocks(page, "python"))
    names = {}
    exec(compile(code, page, "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} >= PAGES[page]
    printed = capsys.readouterr().out
    for text in PRINTED.get(page, []):
        assert text in printed
    if page == README:
        assert names["model"](names["images"].raw("test", 2)[0]).shape == (2, 10)


def test_no_page_is_forgotten():
    for page in pages():
        if blocks(page, "python"):
            assert page in PAGES or page in ELSEWHERE, page
    for page, test in ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text()
        assert pathlib.Path(page).name in text and blocks(page, "python")


def test_training_commands_run(tmp_path):
    """In the order of README, with one epoch and folders of the test's own."""
    (block,) = [b for b in blocks(README, "sh") if "str_keras.train" in b]
    assert block in blocks("docs/train.md", "sh")
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


def test_files_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in pages():
        text = (ROOT / page).read_text()
        targets = re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", text)
        assert targets or page != README
        for target in targets:
            assert (ROOT / page).parent.joinpath(target).is_file(), (page, target)
        for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
            assert f"\n{target}:" in makefile, (page, target)


@pytest.mark.parametrize("page", [p for p in pages() if blocks(p, "sh")])
def test_commands_that_pages_name_exist(page):
    """Programs, and configurations by name."""
    for line in "\n".join(blocks(page, "sh")).splitlines():
        if module := re.match(r"(?:\w+=\S+ )?python -m ([\w.]+)", line):
            path = ROOT / module[1].replace(".", "/")
            assert path.with_suffix(".py").is_file() or path.is_dir(), line
        if script := re.match(r"(?:taskset \S+ \S+ )?python (tools/\S+)", line):
            assert (ROOT / script[1]).is_file(), line
        if config := re.search(r"--config=(\S+)", line):
            toml = ROOT / "experiments" / "configs" / f"{config[1]}.toml"
            assert toml.is_file() or config[1].startswith("android"), line
