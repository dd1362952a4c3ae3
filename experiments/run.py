"""Runs the experiments: `python -m experiments.run --suite=fashion_mobilenet`.

A suite is a grid of methods, levels of sparsity and seeds; `--list` shows its runs in
their order. Finished ones (a row of the same settings in results/SUITE.csv) are
skipped, so the same command goes on where it was stopped or killed: inside a run at its
last checkpoint, one a minute; a shorter run starts anew. Several processes may work on
one suite, each on runs of its own: as many as the CPU has cores, with --threads=1.

KERAS_BACKEND chooses tensorflow, jax or torch; the last two do without TensorFlow, but
for the ramp of gmp, which is of tensorflow-model-optimization.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # nor a line for each `fit`
from str_keras import cli

if TYPE_CHECKING:
    from experiments.suites import Cell

FLAGS = flags.FLAGS
DEFAULT_RESULTS = "experiments/results"


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string("suite", None, "Which; without it their names are shown.")
    flags.DEFINE_boolean("list", False, "Show the runs and what is done of them.")
    flags.DEFINE_string("only", "", "Runs whose id has this regular expression in it.")
    flags.DEFINE_list("seeds", [], "Runs of these seeds, such as 0,1; all if empty.")
    flags.DEFINE_float(
        "minutes", None, "Stop, with a checkpoint, within this time.", 0.0
    )
    flags.DEFINE_string(
        "results", DEFAULT_RESULTS, "Folder of the tables, budgets and histories."
    )
    flags.DEFINE_string("output", "runs/experiments", "Folder for checkpoints.")
    flags.DEFINE_string(
        "data_dir", "", "Folder of fashion_mnist's files, cifar10.npz, or TFDS."
    )
    flags.DEFINE_integer("threads", None, "CPU threads; all cores if not given.", 1)
    flags.DEFINE_boolean("retry", False, "Run those that diverged once more.")
    flags.DEFINE_integer("epochs", None, "Instead of the suite's.", 1)
    flags.DEFINE_integer("limit", None, "So many images only (to try it out).", 1)
    flags.DEFINE_float("checkpoint_seconds", 60.0, "Between two checkpoints.", 0.0)


def _use_threads(number: int | None) -> None:
    """Tells the backend, before it computes."""
    import keras

    if number is None:
        return
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)
    elif backend == "torch":
        import torch

        torch.set_num_threads(number)
    else:
        raise ValueError(
            "JAX takes its threads from the system: leave --threads out (`taskset` "
            f"ties a process to cores). Received: threads={number}"
        )


def _pattern() -> re.Pattern[str]:
    try:
        return re.compile(FLAGS.only)
    except re.error as error:
        raise ValueError(
            f"--only is no regular expression: {error}. Received: only={FLAGS.only!r}"
        ) from error


def _seeds() -> list[int]:
    if not all(seed.isdigit() for seed in FLAGS.seeds):
        raise ValueError(f"--seeds are numbers. Received: seeds={FLAGS.seeds}")
    return [int(seed) for seed in FLAGS.seeds]


def _command() -> list[str]:
    """The words that make the same runs again: all that decides them."""
    import keras

    words = [f"KERAS_BACKEND={keras.backend.backend()}", "python", "-m"]
    words += ["experiments.run", f"--suite={FLAGS.suite}"]
    for name in ("threads", "epochs", "limit", "data_dir"):
        if FLAGS[name].present:
            words.append(f"--{name}={FLAGS[name].value}")
    return words


def _none_chosen() -> ValueError:
    return ValueError(
        "No run of the suite is chosen; --list shows them. "
        f"Received: only={FLAGS.only!r}, seeds={FLAGS.seeds}"
    )


def _print_commands(lines: list[str], pattern: re.Pattern[str]) -> None:
    """The suites that are one command a run, of str_keras.train."""
    useless = [n for n in ("seeds", "epochs", "limit", "minutes") if FLAGS[n].present]
    if useless:
        raise ValueError(
            "The paper's suites are commands of str_keras.train, which has flags of "
            f"its own: leave --{useless[0]} out. "
            f"Received: {useless[0]}={FLAGS[useless[0]].value}"
        )
    lines = [line for line in lines if pattern.search(line)]
    if not lines:
        raise _none_chosen()
    print("These take days of GPUs each; run them one by one:\n" + "\n".join(lines))


def _check(chosen: Sequence[Cell]) -> None:
    """Refuses, before anything is trained, what could only fail after it."""
    batch = max(cell.config.batch_size for cell in chosen)
    if FLAGS.limit is not None and FLAGS.limit < batch:
        raise ValueError(
            f"A step takes {batch} images: --limit is at least that. "
            f"Received: limit={FLAGS.limit}"
        )
    if FLAGS.minutes is not None and not math.isfinite(FLAGS.minutes):
        raise ValueError(f"--minutes is a number. Received: minutes={FLAGS.minutes}")
    for name in ("results", "output"):
        path = pathlib.Path(FLAGS[name].value)
        found = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not found.is_dir():
            raise NotADirectoryError(
                f"--{name} is a folder. Received: {name}={FLAGS[name].value!r}"
            )


def main() -> int:
    """Runs a suite, or shows it; 1 if a run failed."""
    from experiments import runner, small_nets, suites

    if not FLAGS.suite:
        raise ValueError(f"--suite is missing: {', '.join(suites.NAMES)}.")
    pattern, seeds = _pattern(), _seeds()
    if lines := suites.commands(FLAGS.suite):
        _print_commands(lines, pattern)
        return 0
    _use_threads(FLAGS.threads)  # before anything is computed
    small_nets.register()
    cells = suites.create(FLAGS.suite, FLAGS.epochs, FLAGS.limit)
    chosen = [
        cell
        for cell in cells
        if pattern.search(cell.id) and (not seeds or cell.config.seed in seeds)
    ]
    if not chosen:
        raise _none_chosen()
    given = FLAGS.epochs is not None or FLAGS.limit is not None
    if given and FLAGS.results == DEFAULT_RESULTS and not FLAGS.list:
        raise ValueError(
            "--epochs and --limit make other runs than the tables are of: name a "
            f"folder for them with --results. Received: results={FLAGS.results!r}"
        )
    _check(chosen)
    options = runner.Options(
        command=_command(),
        results=pathlib.Path(FLAGS.results),
        output=pathlib.Path(FLAGS.output),
        data_dir=FLAGS.data_dir,
        minutes=FLAGS.minutes,
        threads=FLAGS.threads,
        retry=FLAGS.retry,
        checkpoint_seconds=FLAGS.checkpoint_seconds,
    )
    worker = runner.Runner(FLAGS.suite, cells, options)
    rows = worker.table.read()
    done = [cell for cell in chosen if worker.is_done(cell, rows)]
    if FLAGS.list:
        for cell in chosen:
            state = rows[cell.id]["status"] if cell in done else ""
            print(f"{cell.id}  {state}".rstrip())
    print(f"{FLAGS.suite}: {len(done)} of {len(chosen)} runs are done", flush=True)
    if FLAGS.list:
        return 0
    worker.run(chosen)
    rows = worker.table.read()
    failed = [c for c in chosen if rows.get(c.id, {}).get("status", "")[:6] == "failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
