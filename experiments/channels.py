"""Trains nets whose channels die, shrinks them, and measures what that is worth.

`python -m experiments.channels` (9 minutes on two idle CPU cores). Fashion-MNIST's
5,000 images that come with the package; MobileNetV1 of a quarter width with thresholds
on the batch norms, and with thresholds on the kernels so high that filters died;
ResNet18 with thresholds on the batch norms inside of its blocks, and its dense twin.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import sys
import tempfile
import time
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "results"

TOLERANCE = 1e-5
BATCH_SIZE = 128
LR, MOMENTUM, WEIGHT_DECAY, LABEL_SMOOTHING = 0.1, 0.875, 5e-4, 0.1
# Where gamma begins under thresholds on it, as in network slimming (Liu et al. 2017):
# sigmoid(s) reaches half of that 1 of a dense net, and too few channels would die.
GAMMA = 0.5


@dataclasses.dataclass(frozen=True)
class Cell:
    """One net to train.

    Args:
        name: What the table calls it.
        architecture: Of `stk.models`.
        method: "dense", "channels" (STR on batch norms) or "kernels" (STR).
        epochs: Of 39 steps.
        threshold_decay: L2 coefficient of s, which sets the sparsity.
        s_init: Initial logit.
        arguments: Of the architecture.
    """

    name: str
    architecture: str
    method: str
    epochs: int
    threshold_decay: float = 0.0
    s_init: float = -12.0
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)


_MOBILENET = {"alpha": 0.25, "stem": "small"}
_RESNET = {"stem": "imagenet"}  # 32 pixels become 8 before the first block
CELLS = (
    Cell("mobilenetv1 dense", "mobilenetv1", "dense", 8, arguments=_MOBILENET),
    Cell(
        *("mobilenetv1 STR-BN", "mobilenetv1", "channels", 8, 0.08),
        arguments=_MOBILENET,
    ),
    Cell(
        *("mobilenetv1 STR", "mobilenetv1", "kernels", 8, 0.022),
        arguments=_MOBILENET,
    ),
    Cell("resnet18 dense", "resnet18", "dense", 4, arguments=_RESNET),
    Cell("resnet18 STR-BN", "resnet18", "channels", 4, 0.12, arguments=_RESNET),
)


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string(
        "output", str(RESULTS), "Folder for channels.json and channels.csv."
    )
    flags.DEFINE_list("cells", [], "Names of the cells to run, by commas; all if none.")
    flags.DEFINE_integer("epochs", None, "Instead of each cell's (to try it out).", 1)
    flags.DEFINE_integer("seed", 0, "Of weights and order of the images.", 0)
    flags.DEFINE_integer("rounds", 60, "How often each latency is timed.", 1)


def _data() -> dict[str, Any]:
    """Normalized images and labels of both splits, as arrays."""
    import numpy as np

    import str_keras as stk

    dataset = stk.data.load("fashion_mnist_5k")
    found: dict[str, Any] = {"info": dataset.info}
    for split, count in ("train", dataset.info.num_train), ("test", 2000):
        images, labels = dataset.raw(split, count)
        found[split] = np.asarray(dataset.preprocessing.normalize(images)), labels
    return found


def _train(cell: Cell, data: dict[str, Any]) -> Any:
    import keras

    import str_keras as stk
    from str_keras import channels, models

    keras.utils.set_random_seed(FLAGS.seed)
    model: Any = models.create(
        cell.architecture,
        input_shape=data["info"].image_shape,
        classes=data["info"].num_classes,
        **cell.arguments,
    )
    if cell.method == "channels":
        for variable in model.trainable_variables:
            if variable.name == "gamma":
                variable.assign(keras.ops.full_like(variable, GAMMA))
        model = channels.sparsify_channels(model, cell.s_init)
    elif cell.method == "kernels":
        model = stk.sparsify(model, cell.s_init)
    epochs = FLAGS.epochs or cell.epochs
    images, labels = data["train"]
    steps = len(images) // BATCH_SIZE
    schedule = stk.schedules.create("cosine", LR, steps, epochs, 1, per_epoch=False)
    model.compile(
        stk.optimizers.SGD(
            schedule,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            threshold_decay=cell.threshold_decay,
        ),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=LABEL_SMOOTHING
        ),
    )
    targets = keras.utils.to_categorical(labels, data["info"].num_classes)
    whole = steps * BATCH_SIZE  # a last, smaller batch would be another step
    model.fit(images[:whole], targets[:whole], BATCH_SIZE, epochs=epochs, verbose="0")
    return model


def _accuracy(model: Any, data: dict[str, Any]) -> float:
    images, labels = data["test"]
    outputs = model.predict(images, batch_size=500, verbose=0)
    return float((outputs.argmax(-1) == labels).mean())


def _lite_latency(models: list[Any], images: Any) -> tuple[list[float], list[int]]:
    """Median seconds of one image in LiteRT, float32, and the sizes of the files."""
    import functools

    import str_keras as stk
    from str_keras.channels import measure_latency
    from str_keras.export.verify import TFLiteRunner
    from str_keras.startup import stderr_aside

    with tempfile.TemporaryDirectory() as folder, stderr_aside():
        paths = [pathlib.Path(folder, f"{i}.tflite") for i in range(len(models))]
        for model, path in zip(models, paths, strict=True):
            stk.export.tflite(model, path, images=images[:32])
        runners = [TFLiteRunner(path) for path in paths]
        calls = [functools.partial(runner, images[:1]) for runner in runners]
        return measure_latency(calls, 5 * FLAGS.rounds), [
            path.stat().st_size for path in paths
        ]


def _check(before: Any, after: Any, images: Any) -> float:
    """max|difference| of the outputs on the test images; raises above the tolerance."""
    import numpy as np

    pairs = [m.predict(images, batch_size=500, verbose=0) for m in (before, after)]
    difference = float(np.abs(pairs[0] - pairs[1]).max())
    if difference > TOLERANCE * max(1.0, float(np.abs(pairs[0]).max())):
        raise RuntimeError(f"the shrunk model's outputs differ by {difference:.2g}")
    return difference


def _run(cell: Cell, data: dict[str, Any]) -> dict[str, Any]:
    """Trains, strips, shrinks, checks and measures one cell."""
    import str_keras as stk
    from str_keras import channels

    print(f"\n== {cell.name}", flush=True)
    started = time.perf_counter()
    sparse = _train(cell, data)
    seconds = time.perf_counter() - started
    plain = stk.strip(sparse)
    small = channels.shrink(plain)
    images = data["test"][0]
    difference = _check(plain, small, images)
    report = channels.shrink_report(plain, small, images[:256], FLAGS.rounds)
    lite, sizes = _lite_latency([plain, small], images)
    print(report)
    before, after = _accuracy(sparse, data), _accuracy(small, data)
    print(
        f"accuracy {before:.4f} before, {after:.4f} after; outputs differ by "
        f"{difference:.2g}; LiteRT {1e3 * lite[0]:.3f} ms before, {1e3 * lite[1]:.3f} "
        f"ms after; trained in {seconds:.0f} s",
        flush=True,
    )
    return {
        "cell": dataclasses.asdict(cell),
        "epochs": FLAGS.epochs or cell.epochs,
        "training_seconds": round(seconds, 1),
        "kernel_sparsity": stk.summary(plain).kernels.sparsity,
        "accuracy": [before, after],
        "difference": difference,
        "keras_batch": 256,
        "lite_batch": 1,
        "lite_latency": lite,
        "tflite_bytes": sizes,
        **report.to_dict(),
    }


def _rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per cell for the CSV file and the closing table."""
    rows = []
    for cell in cells:
        row = {
            "name": cell["cell"]["name"],
            "epochs": cell["epochs"],
            "threshold_decay": cell["cell"]["threshold_decay"],
            "s_init": cell["cell"]["s_init"],
            "seed": FLAGS.seed,
            "kernel_sparsity": round(cell["kernel_sparsity"], 4),
        }
        for key, digits in (("accuracy", 4), ("channels", 0), ("params", 0)):
            for moment, value in zip(("before", "after"), cell[key], strict=True):
                row[f"{key}_{moment}"] = round(value, digits) if digits else value
        row |= {"macs_before": cell["macs"][0], "macs_after": cell["macs"][1]}
        row["difference"] = f"{cell['difference']:.2g}"
        for name, key in ("keras", "latency"), ("litert", "lite_latency"):
            times = [round(1e3 * seconds, 3) for seconds in cell[key]]
            row |= {f"{name}_ms_before": times[0], f"{name}_ms_after": times[1]}
            row[f"{name}_speedup"] = round(cell[key][0] / cell[key][1], 2)
        rows.append(row)
    return rows


def _write(
    cells: list[dict[str, Any]], minutes: float, environment: dict[str, Any]
) -> None:
    from experiments.records import write_csv
    from str_keras.files import write_text

    command = shlex.join(["python", "-m", "experiments.channels", *sys.argv[1:]])
    where = {**environment, "command": command}
    record = {
        **where,
        "minutes": round(minutes, 1),
        "seed": FLAGS.seed,
        "load_average": os.getloadavg()[1],  # of 5 minutes: who else was there
        "recipe": {
            "data": "fashion_mnist_5k",
            "batch_size": BATCH_SIZE,
            "lr": LR,
            "schedule": "cosine by step after 1 epoch of warm-up",
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "label_smoothing": LABEL_SMOOTHING,
            "first_gamma_of_channels": GAMMA,
        },
        "cells": cells,
    }
    output = pathlib.Path(FLAGS.output)
    write_text(output / "channels.json", json.dumps(record, indent=1) + "\n")
    rows = [row | where for row in _rows(cells)]
    write_csv(output / "channels.csv", tuple(rows[0]), rows)


def _table(cells: list[dict[str, Any]]) -> str:
    from str_keras.tables import text_table

    rows = _rows(cells)
    names = list(rows[0])[1:]
    body = [
        [
            name,
            *(
                f"{row[name]:,}" if isinstance(row[name], int) else str(row[name])
                for row in rows
            ),
        ]
        for name in names
    ]
    return text_table(["", *(row["name"] for row in rows)], body)


def main() -> None:
    """Runs the cells, writes the results and prints the table."""
    from experiments import records

    known = [cell.name for cell in CELLS]
    wanted = FLAGS.cells or known
    in_part = bool(FLAGS.cells) or FLAGS.epochs is not None
    if in_part and pathlib.Path(FLAGS.output) == RESULTS:
        raise ValueError(
            "--cells and --epochs make other tables than those recorded: name a "
            f"folder for them with --output. Received: output={FLAGS.output!r}"
        )
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ValueError(f"--cells are of {known}. Received: {unknown}")
    started = time.perf_counter()
    environment = records.environment(None)
    data = _data()
    results: list[dict[str, Any]] = []
    minutes = 0.0
    for cell in CELLS:
        if cell.name in wanted:
            results.append(_run(cell, data))
            minutes = (time.perf_counter() - started) / 60
            # What is done stays if the rest is stopped.
            _write(results, minutes, environment)
    print(f"\n{_table(results)}\n\n{minutes:.1f} minutes")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
