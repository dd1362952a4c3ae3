"""Trains a dense net and its sparse twin on real images, and ships the sparse one.

`make quickstart`, or `python -m experiments.quickstart --output=runs/quickstart`. A run
that was stopped goes on where it stopped. Ends in a table: dense against sparse.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import sys
import time
from typing import Any

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "runs/quickstart", "Folder for runs, files and report.")
flags.DEFINE_integer("epochs", None, "Instead of the recipe's 12 (to try it out).", 1)

FLOAT16_TOLERANCE = 2e-2
METHODS = ("dense", "str")
# What each twin is shipped as: weights and whether only the non-zeros are stored.
VARIANTS = {
    "dense": [
        ("float32", False),
        ("float16", False),
        ("int8", False),
        ("int8_weights", False),
    ],
    "str": [
        ("float32", True),
        ("float16", True),
        ("int8", False),
        ("int8_weights", True),
    ],
}


def _train(method: str, output: pathlib.Path, epochs: int | None) -> Any:
    from str_keras import config_files, training

    values = {**config_files.read(config_files.find("quickstart")), "method": method}
    if epochs:
        values["epochs"] = epochs
    run_dir = output / method
    print(f"\n== {method}: {run_dir}", flush=True)
    return training.train_and_evaluate(
        config_files.from_dict(values),
        run_dir,
        resume=(run_dir / "config.json").exists(),
        command=shlex.join(["python", "-m", "experiments.quickstart", *sys.argv[1:]]),
    )


def _export(method: str, model: Any, output: pathlib.Path) -> list[Any]:
    import str_keras as stk
    from str_keras.startup import stderr_aside

    dataset = stk.data.load("fashion_mnist_5k")
    images, labels = dataset.raw("test", dataset.info.num_test)
    calibration, _ = dataset.raw("train", 500)
    plain = stk.strip(model)
    reports = []
    for weights, sparse in VARIANTS[method]:
        kind = f"{method}-{weights}{'-sparse' if sparse else ''}"
        with stderr_aside():
            report = stk.export.tflite(
                plain,
                output / "files" / f"{kind}.tflite",
                weights=weights,
                sparse=sparse,
                images=images,
                labels=labels,
                calibration=calibration,
                class_names=dataset.info.class_names,
                preprocessing=dataset.preprocessing,
                # Over 2,000 images the extreme of float16's rounding is above the
                # usual 5e-3 in one run of two; the table shows it.
                tolerance=FLOAT16_TOLERANCE if weights == "float16" else None,
                overwrite=True,
            )
        reports.append(report)
    return reports


def _column(result: Any, reports: list[Any]) -> dict[str, str]:
    """What the closing table says of one twin."""
    kernels = result.summary.kernels
    smallest = min(reports, key=lambda report: report.gzip_bytes)
    return {
        "test accuracy": f"{result.metrics[-1]['val_accuracy']:.4f}",
        "kernel parameters": f"{kernels.params:,}",
        "of them not zero": f"{kernels.nonzeros:,}",
        "sparsity": f"{100 * kernels.sparsity:.2f} %",
        "MACs": f"{kernels.macs:,}",
        "of them with non-zeros": f"{kernels.sparse_macs:,}",
        **{
            f"{report.weights} .tflite, bytes": f"{report.bytes:,}"
            + " (sparse)" * report.sparse
            for report in reports
        },
        "smallest download, bytes": f"{smallest.gzip_bytes:,}",
        "which is, by gzip": smallest.encoding,
    }


def _table(columns: dict[str, dict[str, str]]) -> str:
    from str_keras.tables import text_table

    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [[n, *(column.get(n, "") for column in columns.values())] for n in names]
    return text_table(["", *columns], rows)


def main() -> None:
    """Trains, exports, reports, and prints the table."""
    import str_keras as stk
    from str_keras.files import write_text
    from str_keras.reporting import write_report
    from str_keras.run_directory import git_revision, versions

    output = pathlib.Path(FLAGS.output)
    started = time.perf_counter()
    resumed = any((output / method / "config.json").exists() for method in METHODS)
    results = {method: _train(method, output, FLAGS.epochs) for method in METHODS}
    print("\n== files, each loaded, run on the test images and compared with Keras")
    reports = {m: _export(m, r.model, output) for m, r in results.items()}
    print(stk.export.report_table([r for group in reports.values() for r in group]))
    page = write_report(output / "str", compare=[output / "dense"])
    minutes = (time.perf_counter() - started) / 60
    columns = {m: _column(results[m], reports[m]) for m in METHODS}
    table = _table({"dense": columns["dense"], "STR": columns["str"]})
    record = {
        "command": "make quickstart",
        "minutes": None if resumed else round(minutes, 1),
        "seed": 0,
        "versions": versions(),
        "git_revision": git_revision(),
        **columns,
    }
    write_text(output / "result.json", json.dumps(record, indent=1) + "\n")
    went_on = " (of this call; the training had begun before)" * resumed
    print(f"\n{table}\n\n{minutes:.1f} minutes{went_on}; report: {page}")
    print(
        "A net of 32x32 inputs and a stride-1 stem is for size, not for sparse kernels."
    )


if __name__ == "__main__":
    cli.run(main)
