"""FastGRNN of full, fixed low and learned rank: accuracy against parameters.

`python -m experiments.rnn` (rows of the Fashion-MNIST images in the package), with
`--watch=seglearn-1.2.5-py3-none-any.whl` the smartwatch recordings too: 6 minutes of
training in all on one CPU core (`taskset -c 0`; the steps are too small to share). One
recipe for all; learned ranks differ by the decay of their logits and where they start.
A run that is in the table is not run again.
"""

from __future__ import annotations

import csv
import dataclasses
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
UNITS, BATCH_SIZE = 64, 128
LR, WEIGHT_DECAY = 0.01, 0.004
COLUMNS = (
    *("dataset", "method", "kernel_rank", "recurrent_rank", "threshold_decay"),
    *("units", "epochs", "seed", "accuracy", "parameters", "rank_w", "rank_u"),
    *("seconds", "backend", "hardware", "versions", "git_revision", "command"),
)
Row = dict[str, Any]
DEFAULT_OUTPUT = "experiments/results"
EPOCHS = 15


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string("output", DEFAULT_OUTPUT, "Folder of rnn.csv, rnn.png.")
    flags.DEFINE_string("watch", "", "seglearn's wheel; adds the smartwatch's data.")
    flags.DEFINE_integer("seeds", 3, "Number of seeds.", 1)
    flags.DEFINE_integer("epochs", EPOCHS, "Over the training sequences.", 1)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of network.

    Args:
        method: "full rank", "fixed low rank" or "learned rank, from ...".
        kernel_rank: Rank of W, None is full; where it is learned, that at the start.
        recurrent_rank: Of U.
        threshold_decay: L2 coefficient of the logits, where ranks are learned.
    """

    method: str
    kernel_rank: int | None = None
    recurrent_rank: int | None = None
    threshold_decay: float = 0.0


# W of the watch is 6 x 64: factors of more than rank 5 are larger than it.
FIXED = {
    "fashion_rows": ((4, 4), (8, 8), (16, 16)),
    "watch": ((2, 2), (4, 4), (5, 16)),
}
TITLES = {
    "fashion_rows": "Fashion-MNIST by rows, 2,000 test images",
    "watch": "Smartwatch, windows of 3 unseen people",
}
LOW_START = {"fashion_rows": (16, 16), "watch": (None, 16)}


def _cells(dataset: str) -> list[Cell]:
    start_w, start_u = LOW_START[dataset]
    return [
        Cell("full rank"),
        *(Cell("fixed low rank", w, u) for w, u in FIXED[dataset]),
        *(Cell("learned rank, from full", None, None, d) for d in (0.05, 0.1, 0.2)),
        *(Cell("learned rank, from 16", start_w, start_u, d) for d in (0.1, 0.2)),
    ]


def _key(row: Row) -> tuple[str, ...]:
    """What tells one run from another, as the table has it."""

    def text(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    names = COLUMNS[: COLUMNS.index("accuracy")]
    return tuple("" if row[name] in ("", None) else text(row[name]) for name in names)


def _train(cell: Cell, data: Any, seed: int) -> Any:
    """A trained network; the last epoch counts, none is chosen by the test set."""
    import keras

    import str_keras as stk

    keras.utils.set_random_seed(seed)
    learned = cell.method.startswith("learned")
    recurrent = stk.layers.FastGRNNCell(
        UNITS, cell.kernel_rank, cell.recurrent_rank, learn_rank=learned
    )
    sequences, labels = data.train
    model = keras.Sequential(
        [
            keras.Input(sequences.shape[1:]),
            stk.layers.FastGRNN(recurrent),
            keras.layers.Dense(data.classes),
        ]
    )
    steps = -(-len(sequences) // BATCH_SIZE)
    schedule = stk.schedules.create("cosine", LR, steps, FLAGS.epochs, 0)
    model.compile(
        stk.optimizers.AdamW(
            schedule, weight_decay=WEIGHT_DECAY, threshold_decay=cell.threshold_decay
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(sequences, labels, BATCH_SIZE, epochs=FLAGS.epochs, verbose=0)  # type: ignore
    return model


def _run(cell: Cell, data: Any, seed: int) -> Row:
    """Trains a cell, folds its ranks, and counts what is left."""
    import keras
    import numpy as np

    from str_keras.stripping import strip

    started = time.perf_counter()
    model = _train(cell, data, seed)
    seconds = time.perf_counter() - started
    plain: Any = strip(model)
    sequences, labels = data.test
    # Not `predict`: it would be traced anew for each network.
    to_numpy: Any = keras.ops.convert_to_numpy
    outputs = [to_numpy(network(sequences)) for network in (model, plain)]
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    if difference > 1e-4 * np.abs(outputs[0]).max():
        raise RuntimeError(f"the folded network's outputs differ by {difference:.2g}")
    ranks = plain.layers[0].cell.ranks
    if cell.method.startswith("learned"):  # folding keeps one where none is left
        ranks = model.layers[0].cell.ranks
    return {
        "accuracy": round(float((outputs[1].argmax(-1) == labels).mean()), 4),
        "parameters": plain.count_params(),
        "rank_w": ranks.kernel,
        "rank_u": ranks.recurrent,
        "seconds": round(seconds, 1),
    }


def read(path: pathlib.Path) -> list[Row]:
    """The rows of a table, or none; all values are text.

    Raises:
        ValueError: if it has other columns.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"The table has other columns: move it away. Received: {path}")
    return rows


def _finish(names: list[str], rows: list[Row], path: pathlib.Path) -> None:
    """Runs what is not in the table yet; the table is written after each run."""
    from experiments import sequences
    from experiments.records import environment, write_csv

    known, where = {_key(row) for row in rows}, environment(None)
    command = shlex.join(["python", "-m", "experiments.rnn", *sys.argv[1:]])
    # All of them first: a bad file is said before minutes of training.
    loaded = {
        name: sequences.watch(FLAGS.watch)
        if name == "watch"
        else sequences.fashion_rows()
        for name in names
    }
    for name, data in loaded.items():
        for seed in range(FLAGS.seeds):
            for cell in _cells(name):
                row: Row = {"dataset": name, **dataclasses.asdict(cell)}
                row |= {"units": UNITS, "epochs": FLAGS.epochs, "seed": seed}
                if _key(row) in known:
                    continue
                row |= _run(cell, data, seed) | where
                row["command"] = command
                rows.append(row)
                write_csv(path, COLUMNS, rows)
                said = (f"{row[c]}" for c in COLUMNS[: COLUMNS.index("backend")])
                print(" | ".join(said), flush=True)


def _groups(rows: list[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows of one cell together, its seeds; in the table's order."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    seed = COLUMNS.index("seed")
    for row in rows:
        groups.setdefault(_key(row)[:seed], []).append(row)
    return groups


def _table(rows: list[Row]) -> str:
    """Mean and spread of each cell."""
    import numpy as np

    from str_keras.tables import text_table

    body = []
    for group in _groups(rows).values():
        first = group[0]
        accuracy = np.array([float(row["accuracy"]) for row in group])
        cells = [first["dataset"], first["method"], str(first["threshold_decay"])]
        cells.append(f"{accuracy.mean():.4f} ± {accuracy.std():.4f}")
        for column in ("parameters", "rank_w", "rank_u"):
            cells.append(f"{np.mean([int(row[column]) for row in group]):,.0f}")
        body.append([*cells, str(len(group))])
    names = "data|rank|decay of s|accuracy|parameters|rank of W|rank of U|seeds"
    return text_table(names.split("|"), body, left=(0, 1))


def _draw(figure: Any, rows: list[Row]) -> None:
    """Accuracy against parameters, a panel per data set: runs, and means of cells."""
    import numpy as np

    from str_keras.reporting.drawing import BLUE, GRAY, RED

    looks = {
        "full rank": (GRAY, "s"),
        "fixed low rank": (BLUE, "o"),
        "learned rank, from full": (RED, "D"),
        "learned rank, from 16": (RED, "v"),
    }
    names = [name for name in TITLES if any(row["dataset"] == name for row in rows)]
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        here = [row for row in rows if row["dataset"] == name]
        for method, (color, marker) in looks.items():
            groups = [
                np.array([(int(r["parameters"]), float(r["accuracy"])) for r in group])
                for group in _groups(here).values()
                if group[0]["method"] == method
            ]
            runs = np.concatenate(groups)
            means = np.array(sorted(tuple(group.mean(0)) for group in groups))
            axis.plot(*runs.T, marker, color=color, ms=4, alpha=0.35, mec="none")
            line = "-" if method == "fixed low rank" else ""
            axis.plot(*means.T, marker + line, color=color, ms=7, lw=1.4, label=method)
        axis.set(title=TITLES[name], xlabel="parameters, ranks folded", xscale="log")
        ticks = [n for n in (500, 1000, 2000, 5000, 10_000) if _within(n, here)]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.set_xticks([], minor=True)
    axes[0].set_ylabel("test accuracy")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(looks),
        title="small: a run; large: mean of the seeds",
    )


def _within(number: int, rows: list[Row]) -> bool:
    sizes = [int(row["parameters"]) for row in rows]
    return 0.8 * min(sizes) <= number <= 1.2 * max(sizes)


def main() -> None:
    """Runs what is missing, draws the figure and prints the table."""
    from str_keras.files import written_aside
    from str_keras.reporting.drawing import png

    if FLAGS.epochs != EPOCHS and FLAGS.output == DEFAULT_OUTPUT:
        raise ValueError(
            "--epochs makes other runs than those recorded: name a folder for them "
            f"with --output. Received: output={FLAGS.output!r}"
        )
    output = pathlib.Path(FLAGS.output)
    rows = read(output / "rnn.csv")
    names = ["fashion_rows", *(["watch"] if FLAGS.watch else [])]
    _finish(names, rows, output / "rnn.csv")
    with written_aside(output / "rnn.png") as aside:
        aside.write_bytes(png(lambda figure: _draw(figure, rows)))
    print(f"\n{_table(rows)}")
    if not FLAGS.watch:
        from experiments.sequences import WATCH_HELP

        print(f"\nThe other data set: {WATCH_HELP}.")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
