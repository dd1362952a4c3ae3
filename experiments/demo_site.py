"""The demonstration's folder of files: the page, two models, test images, LiteRT.js.

The folder is whole: any server of static files shows it, without a network. Threads in
the browser want the two headers that `create_server` sends.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import pathlib
import shutil
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "tools" / "demo_web"
KINDS = ("dense", "sparse")
NUM_IMAGES = 20
# Of the npm packages, what a browser loads; of LiteRT's four builds those that the page
# asks for: relaxed SIMD, without it, and with threads.
PACKAGES = (
    "@litertjs/core/package.json",
    "@litertjs/core/dist/index.js",
    "@litertjs/wasm-utils/package.json",
    "@litertjs/wasm-utils/dist/index.js",
    *(
        f"@litertjs/core/wasm/litert_wasm_{build}internal.{suffix}"
        for build in ("", "compat_", "threaded_")
        for suffix in ("js", "wasm")
    ),
)
_DARK = 64.0  # of 255: the mean of a border below which a background is a dark one


def write_page(folder: pathlib.Path, packages: pathlib.Path) -> None:
    """Copies the page and LiteRT.js.

    Args:
        folder: Of the site; made if it is missing.
        packages: A folder node_modules with @litertjs/core.

    Raises:
        FileNotFoundError: if a package is missing.
    """
    for source in PAGE.iterdir():
        _copy(source, folder / source.name)
    write_packages(folder, packages)


def write_packages(folder: pathlib.Path, packages: pathlib.Path) -> None:
    """Copies LiteRT.js, as vendor; arguments and error as of `write_page`."""
    for name in PACKAGES:
        if not (packages / name).is_file():
            raise FileNotFoundError(
                "LiteRT.js is not installed: run tools/setup_runtimes.sh web. "
                f"Received: {packages / name}"
            )
        _copy(packages / name, folder / "vendor" / name)


def write_models(
    folder: pathlib.Path, dense: pathlib.Path, sparse: pathlib.Path
) -> None:
    """Copies two .tflite files with their JSON, as models/dense and models/sparse.

    Args:
        folder: Of the site.
        dense: A file of `str_keras.export.tflite` with preprocessing.
        sparse: Another of the same input and output.

    Raises:
        FileNotFoundError: if a file, or its JSON, is missing.
        ValueError: if the page cannot show them: the JSON is of no such file or tells
            no preprocessing, or the batch is not 1.
    """
    given = list(zip(KINDS, (dense, sparse), strict=True))
    for kind, path in given:
        _check_model(path, kind)
    for kind, path in given:
        for suffix in (".tflite", ".json"):
            target = folder / "models" / kind
            _copy(path.with_suffix(suffix), target.with_suffix(suffix))


def _check_model(path: pathlib.Path, kind: str) -> None:
    is_there = path.is_file() and path.with_suffix(".json").is_file()
    if path.suffix != ".tflite" or not is_there:
        raise FileNotFoundError(
            "a model is a .tflite file with the JSON that str_keras.export.tflite "
            f"wrote beside it. Received: --{kind}={path}"
        )
    try:
        facts = _read(path.with_suffix(".json"))
    except ValueError:
        facts = None
    needed = ("sha256", "input", "preprocessing", "params", "nonzeros")
    if not isinstance(facts, dict) or any(facts.get(name) is None for name in needed):
        raise ValueError(
            "the page wants a file of str_keras.export.tflite, written with "
            f"preprocessing (--dataset). Received: --{kind}={path}"
        )
    shape = facts["input"]["shape"]
    if len(shape) != 4 or shape[0] != 1:
        raise ValueError(
            "the page runs images one by one: export with batch_size=1. "
            f"Received: --{kind}={path} of input shape {shape}"
        )


def image_form(folder: pathlib.Path) -> tuple[int, int]:
    """Height (and width) and channels of the images that the site's models take."""
    facts = _read(folder / "models" / "dense.json")
    return facts["input"]["shape"][1], facts["input"]["shape"][3]


def write_images(folder: pathlib.Path, dataset: Any) -> None:
    """Writes test images as PNG, the first of each class, with labels and license.

    Args:
        folder: Of the site.
        dataset: A `str_keras.data.ImageDataset` of the models' image size.
    """
    images, labels = dataset.raw("test", min(dataset.info.num_test, 2000))
    chosen = _spread(labels, dataset.info.num_classes)
    into = folder / "images"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    listed = []
    for i in chosen:
        listed.append({"file": f"{i:04}.png", "label": int(labels[i])})
        (into / listed[-1]["file"]).write_bytes(_png(images[i]))
    index = {
        "dataset": dataset.info.name,
        "license": dataset.info.license,
        "license_file": _copy_license(dataset.info.name, into),
        "gray": bool((images == images[..., :1]).all()),
        "light_on_dark": _border(images[chosen]) < _DARK,
        "images": listed,
    }
    (into / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def _spread(labels: np.ndarray, num_classes: int) -> list[int]:
    """Places of the first images of each class, as many of each, by class."""
    each = max(1, NUM_IMAGES // num_classes)
    places = [np.flatnonzero(labels == label)[:each] for label in range(num_classes)]
    return [int(i) for found in places for i in found][:NUM_IMAGES]


def _png(image: np.ndarray) -> bytes:
    import tensorflow as tf

    return tf.io.encode_png(image).numpy()


def _border(images: np.ndarray) -> float:
    sides = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    return float(np.mean([side.mean() for side in sides]))


def _copy_license(dataset: str, into: pathlib.Path) -> str | None:
    if not dataset.startswith("fashion_mnist"):
        return None
    from str_keras import data

    embedded = pathlib.Path(data.__file__).parent / "embedded"
    _copy(embedded / "LICENSE.fashion_mnist", into / "LICENSE.txt")
    return "LICENSE.txt"


def is_complete(folder: pathlib.Path) -> bool:
    """Whether models and images are there and whole; the page may still be stale."""
    try:
        for kind in KINDS:
            facts = _read(folder / "models" / f"{kind}.json")
            content = (folder / "models" / f"{kind}.tflite").read_bytes()
            if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                return False
        images = _read(folder / "images" / "index.json")["images"]
        return all((folder / "images" / image["file"]).is_file() for image in images)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".tflite": "application/octet-stream",
        ".txt": "text/plain; charset=utf-8",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        # An isolated page may share memory between threads, and has a finer clock.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        del path
        self.send_error(http.HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the program's line is the page's address."""


def create_server(
    folder: pathlib.Path, host: str, port: int
) -> http.server.ThreadingHTTPServer:
    """A server of the folder, bound and not yet serving.

    Args:
        folder: Of the site.
        host: Address to listen on.
        port: 0 takes a free one.

    Raises:
        OSError: if the port is taken, or the address is none of this machine.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise OSError(
            f"the page cannot be served there ({error.strerror}): choose another "
            f"--port, or the --host 127.0.0.1. Received: host={host}, port={port}"
        ) from error
