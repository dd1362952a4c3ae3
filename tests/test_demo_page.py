"""The page of `make demo` in headless Chromium, as its users meet it."""

import gzip
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from export_models import fill
from PIL import Image

import str_keras as stk
from experiments import demo_record, demo_site
from str_keras.data import Preprocessing
from str_keras.export.runtimes import installed

pytestmark = pytest.mark.runtimes
ROOT = pathlib.Path(__file__).parents[1]
KINDS = ("dense", "sparse")
SIZE = 96
# Width and height; a border that is light is inverted.
PICTURES = {"large": (150, 113), "small": (40, 71), "light": (97, 200)}


def untrained(sparsity, images):
    """A MobileNetV1 of random weights whose outputs tell images apart.

    Its batch norms have the statistics of the images; else they drown in 27 layers.
    """
    model = stk.models.MobileNetV1(0.5, (SIZE, SIZE, 3), 10)
    fill(model, sparsity, dense="depthwise")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(12):
        model(images, training=True)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The site as the program makes it, of two nets without training."""
    folder = tmp_path_factory.mktemp("demo")
    images = stk.data.load("fashion_mnist_5k", image_size=SIZE, channels=3)
    pixels, _ = images.raw("test", 40)
    for kind, sparsity in (("dense", 0.0), ("sparse", 0.9)):
        stk.export.tflite(
            untrained(sparsity, images.preprocessing.normalize(pixels)),
            folder / f"{kind}.tflite",
            sparse=kind == "sparse",
            images=pixels,
            class_names=images.info.class_names,
            preprocessing=images.preprocessing,
        )
    subprocess.run(
        [sys.executable, "-m", "experiments.demo", "--noserve"]
        + [f"--output={folder}", "--dataset=fashion_mnist_5k"]
        + [f"--{kind}={folder / kind}.tflite" for kind in KINDS],
        cwd=ROOT,
        check=True,
    )
    return folder


def write_pictures(folder):
    random = np.random.default_rng(0)
    for name, (width, height) in PICTURES.items():
        coarse = random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        picture = np.array(Image.fromarray(coarse).resize((width, height)))
        edge = 250 if name == "light" else 5
        picture[:6], picture[-6:], picture[:, :6], picture[:, -6:] = (edge,) * 4
        Image.fromarray(picture).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")


@pytest.fixture(scope="module")
def walk(folder):
    """Runs a step of demo_page.mjs on the site; gives the lists of facts by name."""
    write_pictures(folder)
    server = demo_site.create_server(folder / "site", "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    script = pathlib.Path(__file__).parent / "demo_page.mjs"
    web = installed.home() / "web"

    def run(step, **more):
        job = {
            "url": url,
            "pictures": [str(folder / f"{name}.png") for name in PICTURES],
            "text": str(folder / "text.png"),
            "digest": hashlib.sha256(b"no model").hexdigest(),
            "step": step,
            **more,
        }
        (folder / "job.json").write_text(json.dumps(job))
        done = subprocess.run(
            ["node", script, folder / "job.json", web, str(shutil.which("chromium"))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told = {}
        for line in done.stdout.splitlines():
            facts = json.loads(line)
            told.setdefault(facts.pop("step"), []).append(facts)
        # The page asks nothing of other machines.
        (asked,) = told.pop("requests")
        assert len(asked["urls"]) > 30
        for asked_for in asked["urls"]:
            assert asked_for.startswith((url, f"blob:{url}")), asked_for
        return told

    yield run
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def litert(folder):
    """From an image as the data set prepares it to the logits of both files."""
    facts = json.loads((folder / "dense.json").read_text())
    preprocessing = Preprocessing.from_json(facts["preprocessing"])
    interpreters = []
    for kind in KINDS:
        interpreters.append(Interpreter(str(folder / f"{kind}.tflite")))
        interpreters[-1].allocate_tensors()

    def run(image):
        tensor = preprocessing.normalize(preprocessing.resize(image[None]))
        found = []
        for interpreter in interpreters:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
            interpreter.invoke()
            output = interpreter.get_output_details()[0]["index"]
            found.append(interpreter.get_tensor(output)[0])
        return np.array(found)

    return run


def assert_same(logits, expected):
    """Of both files: within 1e-3 of the largest logit."""
    logits = np.array(logits)
    assert logits.shape == expected.shape == (2, 10)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(logits - expected) <= 1e-3 * scale).all()


def verdict(logits, names):
    dense, sparse = (names[i] for i in np.argmax(logits, axis=1))
    both = dense == sparse
    return f"Both say {dense}" if both else f"Dense says {dense}, sparse says {sparse}"


def test_predictions_equal_pythons(folder, walk, litert):
    (facts,) = walk("predictions")["predictions"]
    assert facts["faults"] == []
    index = json.loads((folder / "site/images/index.json").read_text())
    names = json.loads((folder / "sparse.json").read_text())["labels"]
    listed, found = index["images"], facts["found"]
    assert len(found) == len(listed) == demo_site.NUM_IMAGES
    assert {image["label"] for image in listed} == set(range(10))
    all_expected = []
    for i, (image, shown) in enumerate(zip(listed, found, strict=True), 1):
        label = names[image["label"]]
        assert shown["name"] == f"{label}, test picture {i}"
        pixels = np.array(Image.open(folder / "site/images" / image["file"]))
        all_expected.append(expected := litert(pixels))
        assert_same(shown["logits"], expected)
        assert shown["verdict"].startswith(verdict(expected, names))
        both = [names[i] for i in np.argmax(expected, axis=1)] == [label, label]
        truth = ", which is right." if both else f"; it is {label}."
        assert shown["verdict"].endswith(truth)
    # Another picture, or the other file, would not do.
    largest = np.abs(all_expected).max(axis=(0, 2))
    assert (np.std(all_expected, axis=0).max(axis=1) > 0.01 * largest).all()
    dense, sparse = np.swapaxes(all_expected, 0, 1)
    assert np.abs(dense - sparse).max() > 0.1 * largest.min()

    # The last picture's classes, the likeliest first, and facts of the JSON.
    for logits, top in zip(all_expected[-1], facts["top"], strict=True):
        powers = np.exp(logits - logits.max())
        shares = np.round(100 * powers / powers.sum())
        lines = top.split("\n")
        order = np.argsort(-logits)[:3]
        assert [line for line in lines if line.strip()] == [
            text for i in order for text in (names[i], f"{shares[i]:.0f} %")
        ]
    stored = [json.loads((folder / f"{kind}.json").read_text()) for kind in KINDS]
    for key in ("params", "nonzeros"):
        assert all(f"{each[key]:,}" in facts["facts"] for each in stored)
    assert facts["license"] == "images/LICENSE.txt"
    assert "MIT License" in (folder / "site/images/LICENSE.txt").read_text()


def test_sparse_is_faster_in_turn(walk, folder):
    (facts,) = walk("speed")["speed"]
    medians = np.array(facts["medians"])  # [measurement, file, quartile]
    assert (np.diff(medians, axis=2) >= 0).all() and (medians > 0).all()
    # No duration is asserted, but which is shorter: 5 times 400 runs of each, in turn,
    # so that a busy machine slows both; the sparse file has a third of the work.
    dense, sparse = np.median(medians[:, :, 1], axis=0)
    assert dense / sparse > 1.0
    assert facts["count"] == 400
    ratio = medians[-1, 0, 1] / medians[-1, 1, 1]
    assert facts["headline"] == f"Sparse is {ratio:.1f} times faster"
    assert facts["status"] == (
        f"Measured 400 runs of each: sparse is {ratio:.1f} times faster in the median."
    )
    assert facts["runtime"].endswith("WebAssembly with relaxed SIMD, one thread")
    sizes = [(folder / f"{kind}.tflite").stat().st_size for kind in KINDS]
    assert f"Sparse is {sizes[0] / sizes[1]:.1f} times smaller" in facts["size"]
    assert f"{sizes[0] / 1e6:.2f} MB" in facts["size"]


def test_threads_and_servers_without_headers_give_the_same(walk):
    (facts,), (plain,) = walk("threads")["threads"], walk("plain")["plain"]
    assert_same(facts["two"], np.array(facts["one"]))
    assert_same(plain["logits"], np.array(facts["one"]))
    assert not facts["error"]["visible"] and not plain["error"]["visible"]
    assert (plain["isolated"], plain["threads"]) == (False, 1)
    # The measurement before, with one thread, left nothing behind.
    assert len(set(facts["counts"])) == 1
    assert facts["status"].startswith(f"Measured {facts['counts'][0]} runs of each")


def gray(path):
    pixels = tf.image.rgb_to_grayscale(np.array(Image.open(path))).numpy()
    return np.repeat(pixels, 3, axis=-1)


def test_chosen_and_dropped_pictures_equal_pythons(walk, litert):
    (facts,) = walk("pictures")["pictures"]
    for name, shown in zip(PICTURES, facts["found"], strict=True):
        pixels = gray(shown["file"])
        expected = litert(255 - pixels if name == "light" else pixels)
        assert_same(shown["logits"], expected)
        assert "it is" not in shown["verdict"] and "right" not in shown["verdict"]
    assert facts["checked"] == 0  # no test picture is the one that is shown
    # The last of them, a light one, as it is.
    assert_same(facts["kept"]["logits"], litert(gray(facts["found"][-1]["file"])))
    assert facts["said"] == {
        "visible": True,
        "text": "text.png is no picture that this browser can read.",
    }


def test_camera(walk):
    told = walk("camera")
    (facts,), (without,) = told["camera"], told["no camera"]
    assert facts["during"]["label"] == "What the networks see of the camera"
    assert (facts["during"]["live"], facts["live"]) == ("off", "polite")
    stopped, later = facts["frames"]
    assert stopped == later > 5
    assert not facts["error"]["visible"]
    assert without["error"] == {
        "visible": True,
        "text": "The camera cannot be used: there is none.",
    }


def test_keyboard_alone(walk, litert, folder):
    (facts,) = walk("keyboard")["keyboard"]
    order = [stop["name"] for stop in facts["order"]]
    controls = ["file", "camera", "invert", "test-picture", "measure", "threads"]
    assert [name for name in order if name in controls] == controls
    for stop in facts["order"]:
        if stop["name"] in controls:
            assert stop["outline"] != "none" and stop["width"] >= 2, stop
    assert_same(facts["chosen"]["logits"], litert(gray(folder / "large.png")))
    index = json.loads((folder / "site/images/index.json").read_text())["images"]
    for place, step in enumerate(("first", "second")):
        path = folder / "site/images" / index[place]["file"]
        assert_same(facts[step]["logits"], litert(np.array(Image.open(path))))
    assert 0 < facts["measured"] <= 400
    assert facts["focus"] == "threads"


def test_accessibility(walk):
    """axe-core's rules for WCAG 2 and good practice, in all looks of the page."""
    views = {facts["name"]: facts for facts in walk("accessibility")["accessibility"]}
    assert len(views) == 6
    for name, facts in views.items():
        assert facts["passes"] > 20, name
        assert facts["violations"] == [], name


@pytest.mark.parametrize("width", [360, 320])
def test_phone(walk, width):
    """No scrolling to the side; 320 is what WCAG asks for (a page at 400 %)."""
    (facts,) = walk("phone", width=width)["phone"]
    assert facts == {"scroll": width, "beyond": [], "clipped": []}


def test_picture_and_record(folder):
    """As docs/demo.png and experiments/results/demo.json were made."""
    place = [f"--output={folder}", f"--picture={folder / 'demo.png'}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.demo", *place],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    with Image.open(folder / "demo.png") as picture:
        assert picture.width == demo_record.WIDTH and picture.height > 900
        colors = picture.getcolors(picture.width * picture.height)
        assert colors and len(colors) > 50
    record = json.loads((folder / "result.json").read_text())
    dense, sparse = (record[kind] for kind in KINDS)
    for kind, facts in zip(KINDS, (dense, sparse), strict=True):
        content = (folder / f"{kind}.tflite").read_bytes()
        assert facts["bytes"] == len(content)
        packed = len(gzip.compress(content, 6))
        assert facts["gzip_bytes"] == pytest.approx(packed, rel=0.01)
        quartiles = facts["milliseconds"]
        assert 0 < quartiles["low"] <= quartiles["median"] <= quartiles["high"]
    assert (dense["sparsity"], dense["kernels_in_wasm"]) == (0.0, "dense")
    assert sparse["sparsity"] > 0.8 and sparse["kernels_in_wasm"] == "sparse"
    ratios, median = record["of_measurements"], record["dense_time_over_sparse"]
    assert len(ratios) == demo_record.MEASUREMENTS and median == np.median(ratios)
    shown = dense["milliseconds"]["median"] / sparse["milliseconds"]["median"]
    assert shown == pytest.approx(median, rel=0.01)
    assert f"sparse is {median:.2f} times faster" in done.stdout
    assert record["hardware"] and record["command"].startswith("python -m experiments")


def test_errors_are_said(walk):
    said = {
        "no model": "models/sparse.tflite is missing (404): make it again",
        "no json": "models/dense.json is missing (404): make it again",
        "no server": "models/dense.tflite cannot be loaded: the server does not",
        "damaged model": "models/dense.tflite is damaged, its SHA-256 is not",
        "damaged json": "models/sparse.json is damaged, it is no JSON",
        "no images": "images/index.json is missing (404)",
        "no runtime": "LiteRT.js does not start in this browser",
        "no tflite": "models/sparse.tflite does not load",
    }
    told = {facts.pop("name"): facts for facts in walk("errors")["error"]}
    assert set(told) == set(said)
    for name, text in said.items():
        assert told[name]["visible"] and told[name]["text"].startswith(text), name
        assert told[name]["verdict"] == "The networks could not be loaded.", name
        assert told[name]["enabled"] == 0, name


def run_module(name, code, given):
    """JSON lines of code on `given`, with a module of the page as `page`."""
    source = (demo_site.PAGE / name).read_text()
    program = f"""
        import fs from 'node:fs';
        const source = Buffer.from({json.dumps(source)}).toString('base64');
        const page = await import(`data:text/javascript;base64,${{source}}`);
        const given = JSON.parse(fs.readFileSync(0, 'utf8'));
        const tell = value => console.log(JSON.stringify(value));
        {code}"""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("rule", "crop"), [("pad", 1.0), ("center_crop", 0.875)])
def test_pictures_are_resized_as_in_python(rule, crop):
    """Sizes around the model's, lines of pixels, odd borders; no browser needed."""
    random = np.random.default_rng(1)
    preprocessing = Preprocessing(33, rule, crop, (0.5,) * 3, (0.25,) * 3)
    sizes = [(33, 33), (38, 38), (100, 57), (31, 200), (1, 90), (20, 7), (47, 46)]
    pictures = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    code = """
        for (const {width, height, values} of given.pictures) {
          const pixels = Float32Array.from(values);
          const picture = page.fit(
            {width, height, channels: 3, values: pixels}, given.rules);
          tell(Array.from(page.toTensor(picture, given.rules, true)));
        }"""
    flat = [
        {"width": p.shape[1], "height": p.shape[0], "values": p.ravel().tolist()}
        for p in pictures
    ]
    given = {"pictures": flat, "rules": preprocessing.to_json()}
    lines = run_module("pictures.js", code, given)
    for picture, line in zip(pictures, lines, strict=True):
        expected = preprocessing.normalize(preprocessing.resize(picture[None]))[0]
        np.testing.assert_allclose(np.reshape(line, (33, 33, 3)), expected, atol=1e-4)


def test_quartiles_are_those_of_numpy():
    values = np.random.default_rng(0).exponential(size=450)
    code = """
        const times = new page.Times();
        given.forEach(value => times.add(value));
        tell({...times.summary, count: times.count});"""
    (found,) = run_module("timing.js", code, values.tolist())
    assert found["count"] == 400  # the last
    expected = np.percentile(values[-400:], [25, 50, 75])
    names = ("low", "median", "high")
    np.testing.assert_allclose([found[name] for name in names], expected)
