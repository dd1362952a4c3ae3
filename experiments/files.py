"""Sizes of every kind of .tflite file of two large sparse networks.

`python -m experiments.files` (minutes: compression by zstd -19 takes most of them).
MobileNetV1 at 224 with 90 % of zeros in each kernel, the first, the depthwise ones and
the classifier too; ResNet50 at the paper's published 90.23 % budget. Weights are
random, the smallest pruned, and batch norms have the statistics of random inputs: sizes
hold, accuracy means nothing. Each file was loaded, run on those inputs and compared
with Keras.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "results"
SEED = 0
INPUTS = 8
# Rounding of random weights, 53 layers deep, at the extreme of 8 x 1,000 outputs.
TOLERANCE = 0.2
_SIZES = ("bytes", "gzip_bytes", "zstd_bytes")


def mobilenet_v1() -> Any:
    """MobileNetV1, 224 pixels, 1,000 classes; 90 % of zeros in each kernel."""
    import str_keras as stk

    model = stk.models.MobileNetV1()
    return stk.budget.uniform(model, 0.9).apply(model)


def resnet50() -> Any:
    """ResNet50, 224 pixels, 1,000 classes; the published 90.23 % budget."""
    import str_keras as stk

    return stk.budget.published("resnet50@90.23").apply(stk.models.ResNet50())


NETS: dict[str, Callable[[], Any]] = {
    "MobileNetV1 90 %": mobilenet_v1,
    "ResNet50 90.23 %": resnet50,
}


def set_statistics(model: Any, images: Any) -> None:
    """Gives batch norms the statistics of the images, as if trained on them.

    With those of their start, activations of a pruned network fade from layer to layer
    and int8 rounds them to nothing.
    """
    import keras

    norms = keras.layers.BatchNormalization
    found = [layer for layer in model.layers if isinstance(layer, norms)]
    momenta = [layer.momentum for layer in found]
    for layer in found:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum


def measure(name: str, directory: pathlib.Path) -> dict[str, Any]:
    """Writes all kinds of one network and prints their table.

    Args:
        name: Of `NETS`.
        directory: Where the files go.

    Returns:
        What `VariantsReport.to_json` gives, and what the network is.
    """
    import keras
    import numpy as np

    import str_keras as stk
    from str_keras.startup import stderr_aside

    keras.utils.set_random_seed(SEED)
    model = NETS[name]()
    shape = (INPUTS, *model.input_shape[1:])
    images = np.random.default_rng(SEED).standard_normal(shape, dtype="float32")
    set_statistics(model, images)
    with stderr_aside():
        made = stk.export.variants(
            model,
            directory,
            name=model.name,
            images=images,
            calibration=images,
            tolerance=TOLERANCE,
            overwrite=True,
        )
        unverified = _sizes_of_refused(model, images, list(made.refused))
    print(f"\n{name}\n{made}", flush=True)
    return {
        "network": NETS[name].__doc__,
        "sparsity": stk.summary(model).kernels.sparsity,
        **made.to_json(),
        "unverified": unverified,
    }


def _sizes_of_refused(model: Any, images: Any, names: list[str]) -> list[Any]:
    """Sizes of what was deleted because it chooses otherwise than Keras.

    Among 1,000 classes of a network of random weights no choice stands out, so int8,
    which rounds activations, cannot keep them; its size is that of a trained one.
    """
    from str_keras.export import targets
    from str_keras.export.kinds import KINDS
    from str_keras.export.writing import TFLiteWriter

    writer = TFLiteWriter(model, calibration=images)
    found = []
    for kind in (kind for kind in KINDS if kind.name in names):
        content = writer.encode(kind).content
        packed = targets.gzip_bytes(content), targets.zstd_bytes(content)
        sizes = dict(zip(_SIZES, (len(content), *packed), strict=True))
        found.append({"kind": kind.name, **sizes})
    return found


def table(nets: dict[str, Any]) -> str:
    """The table of what was measured, in docs/export.md."""
    from experiments import markdown

    columns = ["", "bytes", "gzip -9", "zstd -19", "sparse kernels on"]
    rows = []
    for name, net in nets.items():
        files = [*net["files"], *net["unverified"]]
        best = {key: min(f[key] for f in files) for key in _SIZES}
        for file in files:
            sizes = [_cell(file[key], best[key]) for key in _SIZES]
            label = f"{name.split()[0]}, {file['kind'].replace('-', ' ')}"
            rows.append([label, *sizes, _targets(file)])
    return markdown.table(columns, rows, left=(0, 4))


def _targets(file: dict[str, Any]) -> str:
    if "runs" not in file:
        return "(size alone)"
    return ", ".join(t for t, kernels in file["runs"].items() if kernels == "sparse")


def _cell(size: int, best: int) -> str:
    return f"**{size:,}**" if size == best else f"{size:,}"


def record(nets: dict[str, Any]) -> dict[str, Any]:
    """The results with what they were made by."""
    from experiments import markdown
    from str_keras.run_directory import git_revision, versions

    packages = ("ai-edge-litert", "zstandard")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {
        "command": shlex.join(["python", "-m", "experiments.files", *sys.argv[1:]]),
        "seed": SEED,
        "versions": {**versions(), **found},
        "git_revision": git_revision(ignore=markdown.WRITTEN),
        "nets": nets,
    }


def main() -> None:
    """Measures, prints and records."""
    from experiments import markdown
    from str_keras.files import write_text

    nets = {}
    for name in FLAGS.net or NETS:
        with tempfile.TemporaryDirectory() as directory:
            folder = pathlib.Path(FLAGS.output or directory)
            nets[name] = measure(name, folder)
    results = pathlib.Path(FLAGS.results)
    write_text(results / "files.json", json.dumps(record(nets), indent=1) + "\n")
    if FLAGS.readme:
        markdown.fill(FLAGS.readme, "files", table(nets))
    print(f"\n{table(nets)}")


if __name__ == "__main__":
    flags.DEFINE_multi_enum("net", [], list(NETS), "Only these; again for several.")
    flags.DEFINE_string("output", "", "Where the files are to stay; empty: nowhere.")
    flags.DEFINE_string("results", str(RESULTS), "Folder of files.json.")
    flags.DEFINE_string("readme", "", "A file with the table's markers to fill.")
    cli.run(main)
