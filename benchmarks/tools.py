"""Seconds that tools take on ResNet50: `python -m benchmarks.tools`.

With random weights, 224 pixels, and 90 % of zeros at uniform rates.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).parent
SPARSITY = 0.9


def _seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def measure(model: Any, rounds: int, images: int, folder: pathlib.Path) -> list[dict]:
    """Seconds of each tool.

    Args:
        model: A dense classifier of color images.
        rounds: How often.
        images: To evaluate on.
        folder: For the files.
    """
    import numpy as np
    from tqdm import tqdm

    import str_keras as stk
    from benchmarks import figures

    pruned = stk.budget.uniform(model, SPARSITY).apply(model)
    shape = (images, *model.input_shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    sparse = stk.sparsify(model, s_init=-12.0)
    tools: dict[str, Callable[[], Any]] = {
        "sparsify": lambda: stk.sparsify(model, s_init=-12.0),
        "sparsify to a target": lambda: stk.sparsify(model, target_sparsity=SPARSITY),
        "strip": lambda: stk.strip(sparse),
        "summary": lambda: str(stk.summary(pruned)),
        f"evaluate {images:,} images": lambda: model.predict(x, 32, verbose=0),
        "TFLite, sparse float16, verified": lambda: stk.export.tflite(
            pruned,
            folder / "model.tflite",
            weights="float16",
            sparse=True,
            overwrite=True,
        ),
        "SavedModel, verified": lambda: stk.export.saved_model(
            pruned, folder / "served", overwrite=True
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for _ in tqdm(range(rounds), desc="rounds", disable=None):
        for name, function in tools.items():
            seconds[name].append(_seconds(function)[0])
    return [figures.row(name, "s", taken) for name, taken in seconds.items()]


def main() -> None:
    """Measures, prints and records."""
    import str_keras as stk
    from benchmarks import figures

    model = stk.models.ResNet50(input_shape=(224, 224, 3), classes=1000)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(model, FLAGS.rounds, FLAGS.images, pathlib.Path(folder))
    path = pathlib.Path(FLAGS.output)
    print(figures.write("tools", rows, None, path), f"written to {path}", sep="\n\n")


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "How often.", 1)
    flags.DEFINE_integer("images", 256, "To evaluate on.", 1)
    flags.DEFINE_string("output", str(HERE / "results/tools.csv"), "The table.")
    cli.run(main)
