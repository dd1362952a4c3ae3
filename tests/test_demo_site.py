"""The folder and the program of `make demo`, where no browser is needed."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from experiments import demo_record, demo_site, demo_table

ROOT = pathlib.Path(__file__).parents[1]


def write_model(path, **changes):
    content = f"of {path.name}".encode()
    path.write_bytes(content)
    facts = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": {"shape": [1, 8, 8, 3]},
        "preprocessing": {"mean": [0.5] * 3},
        "params": 4,
        "nonzeros": 2,
        **changes,
    }
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def dataset(images, labels):
    info = types.SimpleNamespace(
        name="folder", license=None, num_test=len(images), num_classes=10
    )
    return types.SimpleNamespace(info=info, raw=lambda split, n: (images, labels))


@pytest.fixture
def site(tmp_path):
    """A site of files that no runtime would take; images of two of ten classes."""
    images = np.random.default_rng(0).integers(100, 256, (60, 8, 8, 3), dtype=np.uint8)
    models = [write_model(tmp_path / f"{kind}.tflite") for kind in demo_site.KINDS]
    demo_site.write_models(tmp_path / "site", *models)
    data = dataset(images, np.arange(60) % 2)
    demo_site.write_images(tmp_path / "site", data)
    return tmp_path / "site"


def test_images_are_the_first_of_each_class(site):
    index = json.loads((site / "images/index.json").read_text())
    assert [image["label"] for image in index["images"]] == [0, 0, 1, 1]
    names = ["0000.png", "0002.png", "0001.png", "0003.png"]
    assert [image["file"] for image in index["images"]] == names
    assert not index["gray"] and not index["light_on_dark"]
    expected = np.random.default_rng(0).integers(100, 256, (60, 8, 8, 3), np.uint8)
    stored = np.array(Image.open(site / "images/0003.png"))
    np.testing.assert_array_equal(stored, expected[3])


def test_dark_gray_images_are_known_as_such(site):
    images = np.zeros((10, 8, 8, 3), np.uint8)
    images[:, 2:6, 2:6] = 255
    demo_site.write_images(site, dataset(images, np.arange(10)))
    index = json.loads((site / "images/index.json").read_text())
    assert index["gray"] and index["light_on_dark"]
    assert len(list((site / "images").glob("*.png"))) == 10  # none of those before


DAMAGES = {
    "models/dense.tflite": b"of another",
    "models/sparse.tflite": None,
    "models/sparse.json": b'{"file":',
    "models/dense.json": b"[]",
    "images/index.json": b"{}",
    "images/0003.png": None,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_made_again(site, name):
    assert demo_site.is_complete(site)
    if DAMAGES[name] is None:
        (site / name).unlink()
    else:
        (site / name).write_bytes(DAMAGES[name])
    assert not demo_site.is_complete(site)


BAD_MODELS = {
    "no preprocessing": ({"preprocessing": None}, "written with preprocessing"),
    "no digest": ({"sha256": None}, "wants a file of str_keras.export.tflite"),
    "a free batch": ({"input": {"shape": [-1, 8, 8, 3]}}, "export with batch_size=1"),
    "no images": ({"input": {"shape": [1, 8]}}, "export with batch_size=1"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models_that_the_page_cannot_show_are_refused(tmp_path, case):
    changes, said = BAD_MODELS[case]
    good = write_model(tmp_path / "good.tflite")
    bad = write_model(tmp_path / "bad.tflite", **changes)
    with pytest.raises(ValueError, match=rf"{said}.*Received: --sparse=.*bad"):
        demo_site.write_models(tmp_path / "site", good, bad)
    assert not (tmp_path / "site").exists()


def test_server_isolates_the_page_and_lists_no_folder(site):
    (site / "a.wasm").write_bytes(b"\0asm")
    server = demo_site.create_server(site, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/a.wasm") as answer:
            assert answer.headers["Content-Type"] == "application/wasm"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/models/")
        with pytest.raises(OSError, match=f"another --port.*Received: .*port={port}"):
            demo_site.create_server(site, "127.0.0.1", port)
    finally:
        server.shutdown()
        server.server_close()


REFUSED = {
    "half of the twins": (["--dense=a.tflite"], "go together. Received: dense="),
    "no such file": (
        [f"--{kind}=no.tflite" for kind in demo_site.KINDS]
        + ["--dataset=fashion_mnist_5k"],
        "a model is a .tflite file with the JSON",
    ),
    "not installed": ([], "LiteRT.js is not installed: run tools/setup_runtimes.sh"),
    "other twins": (["--epochs=3"], "name another --output. Received: epochs=3"),
}


def install_nothing(home):
    """What stands for LiteRT.js where no browser asks for it."""
    for name in demo_site.PACKAGES:
        package = home / "web/node_modules" / name
        package.parent.mkdir(parents=True, exist_ok=True)
        package.write_bytes(b"")


def start(output, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.demo", f"--output={output}", *arguments],
        cwd=ROOT,
        env={**os.environ, "STR_KERAS_RUNTIMES": str(output)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_program_refuses_in_one_line(site, tmp_path, case):
    arguments, said = REFUSED[case]
    if case != "not installed":
        install_nothing(tmp_path)
    with start(tmp_path, *arguments) as program:
        _, errors = program.communicate(timeout=300)
    assert program.returncode == 1
    assert said in errors and "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.slow
def test_program_serves_until_it_is_interrupted(site, tmp_path):
    install_nothing(tmp_path)
    with start(tmp_path, "--port=0") as program:
        assert program.stdout
        assert program.stdout.readline() == "\n"
        url, _, end = program.stdout.readline().partition(" ")
        assert end == f"shows {tmp_path / 'site'}; Ctrl-C ends it\n"
        with urllib.request.urlopen(f"{url}models/dense.tflite") as answer:
            assert answer.read() == (site / "models/dense.tflite").read_bytes()
        program.send_signal(signal.SIGINT)
        out, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, "")
    assert out.strip() == "ended; the same command serves it again"


def test_the_guide_shows_what_was_measured():
    record = json.loads(demo_table.RESULT.read_text())
    assert record["command"].startswith("python -m experiments.demo --picture=")
    revisions = {record[kind]["trained"]["git_revision"] for kind in demo_site.KINDS}
    assert revisions == {record["git_revision"]}
    assert not record["git_revision"].endswith("-dirty")
    _, _, rest = (ROOT / "docs" / "device.md").read_text().partition("<!-- demo -->\n")
    assert rest.partition("\n<!-- end of demo -->")[0] == demo_table.table(record)
    picture = ROOT / "docs/demo.png"
    assert picture.stat().st_size < 400_000
    with Image.open(picture) as opened:
        assert opened.width == demo_record.WIDTH
