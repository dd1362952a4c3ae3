"""What thresholds cost in training: `python -m experiments.step_time`.

One net of each preset at 90 %, its ramp at the end, and the dense one, in one process:
a round is some steps of each, in turn, so that what slows the machine slows all. The
ratio to dense is taken round by round. tfmot and PQuantML train in processes of their
own; their images a second stand in the suites' tables.
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

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "results"
SUITE = "fashion_mobilenet"
METHODS = (
    *(
        "dense",
        "str",
        "str_filter",
        "str_global",
        "st3",
        "st3_sigma",
        "feather",
        "autosparse",
    ),
    *("lats", "gmp", "dnw"),
)
FREE = "str, no target"
"""STR as published: learned thresholds that nothing leads."""
LEVEL, STEPS = 0.9, 10


def build(name: str) -> tuple[Any, Any]:
    """A compiled model of the suite's net and recipe, and its callbacks for `fit`."""
    import keras

    from experiments import suites
    from experiments.arrays import NUM_CLASSES, SIDE, SOURCES
    from str_keras import building
    from str_keras.steering import SparsityRamp

    grid = suites.SUITES[SUITE][0]
    if name == FREE:
        cell = grid.cell("str", LEVEL, 0)
    elif name == "dense":
        cell = grid.cell("dense", None, 0)
    else:
        cell = grid.target_cell(name, LEVEL, 0)
    source = SOURCES[cell.config.dataset]
    steps = source.num_train // cell.config.batch_size
    config = building.resolve(cell.config, SIDE, steps)
    keras.utils.set_random_seed(0)
    shape = (SIDE, SIDE, len(source.mean))
    model = building.create(config, shape, NUM_CLASSES, steps)
    led = building.create_ramp(config, steps) is not None
    # At its end from the first step on: what is led is led at every step.
    return model, [SparsityRamp(0, 0, steps=steps)] if led else []


def measure(rounds: int, threads: int | None) -> dict[str, list[float]]:
    """Seconds a step by net, a value for each round, the first two rounds left out."""
    import numpy as np
    import tensorflow as tf
    from tqdm import tqdm

    from experiments import arrays, suites

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    recipe = suites.SUITES[SUITE][0].recipe()
    images = arrays.load(recipe.dataset, None)
    batches = images.train(0, 0, recipe.batch_size)
    pairs = [batches[i] for i in range(STEPS)]
    x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(recipe.batch_size)
    nets = {name: build(name) for name in (METHODS[0], FREE, *METHODS[1:])}
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    for number in tqdm(range(rounds + 2), desc="rounds", disable=None):
        for name, (model, callbacks) in nets.items():
            started = time.perf_counter()
            model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)
            if number > 1:
                seconds[name].append((time.perf_counter() - started) / STEPS)
    return seconds


def summarize(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Median and quartiles of the step and of its ratio to dense, by net."""
    import numpy as np

    def quartiles(values: Any) -> dict[str, float]:
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return {"median": float(median), "low": float(low), "high": float(high)}

    dense = np.array(seconds["dense"])
    return {
        name: {
            "seconds": quartiles(values),
            "ratio_to_dense": quartiles(np.array(values) / dense),
        }
        for name, values in seconds.items()
    }


def table(nets: dict[str, Any]) -> str:
    """The ratios, in Markdown."""
    from experiments import markdown
    from str_keras.reporting import methods

    rows = []
    for name, net in nets.items():
        label = "STR, no target" if name == FREE else methods.find(name).label
        ratio = net["ratio_to_dense"]
        rows.append(
            [
                label,
                f"{1e3 * net['seconds']['median']:.1f} ms",
                f"{ratio['median']:.2f}",
                f"{ratio['low']:.2f} to {ratio['high']:.2f}",
            ]
        )
    return markdown.table(("net", "a step", "to dense", "middle half"), rows)


def main() -> None:
    """Measures, prints and records."""
    from experiments import markdown, records, small_nets
    from str_keras.files import write_text
    from str_keras.run_directory import git_revision, versions

    small_nets.register()
    revision = git_revision(ignore=markdown.WRITTEN)
    nets = summarize(measure(FLAGS.rounds, FLAGS.threads))
    record = {
        "command": shlex.join(["python", "-m", "experiments.step_time", *sys.argv[1:]]),
        "suite": SUITE,
        "target_sparsity": LEVEL,
        "seed": 0,
        "rounds": FLAGS.rounds,
        "steps_a_round": STEPS,
        "hardware": records.hardware(FLAGS.threads),
        "versions": versions(),
        "git_revision": revision,
        "nets": nets,
    }
    path = pathlib.Path(FLAGS.results) / "step_time.json"
    write_text(path, json.dumps(record, indent=1) + "\n")
    if FLAGS.readme:
        markdown.fill(FLAGS.readme, "step time", table(nets))
    print(table(nets))


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 12, "Rounds of ten steps of each net.", 2)
    flags.DEFINE_integer("threads", None, "CPU threads; all cores if not given.", 1)
    flags.DEFINE_string("results", str(RESULTS), "Folder of step_time.json.")
    flags.DEFINE_string("readme", "", "A file with the table's markers to fill.")
    cli.run(main)
