"""What statistics and fine-tuning bring back after pruning at once.

    python -m experiments.after_training --output=after_training.json

A dense net of the quickstart is pruned at one rate with no training after it, its batch
normalization is estimated anew, and its values are trained for some epochs with their
zeros frozen; accuracy after each, for several seeds.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import statistics
import sys
import tempfile
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS

RATES = (0.5, 0.7, 0.8, 0.9)
STAGES = ("pruned", "recalibrated", "fine_tuned")
FINE_TUNING = {"epochs": 3, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
BATCH = 128


def _train(seed: int) -> Any:
    from str_keras import config_files, training

    values = config_files.read(config_files.find("quickstart"))
    values |= {"method": "dense", "seed": seed}
    if FLAGS.epochs:
        values["epochs"] = FLAGS.epochs
    with tempfile.TemporaryDirectory() as folder:
        run_dir = pathlib.Path(folder) / "run"
        return training.train_and_evaluate(
            config_files.from_dict(values), run_dir
        ).model


def _loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _accuracy(model: Any, dataset: Any) -> float:
    model.compile(loss=_loss(), metrics=["sparse_categorical_accuracy"])
    found = model.evaluate(dataset.evaluation(500), verbose=0, return_dict=True)
    return found["sparse_categorical_accuracy"]


def measure(dense: Any, dataset: Any, rate: float) -> dict[str, float]:
    """Accuracy of a dense net pruned at a rate, after each stage.

    Args:
        dense: A trained model; it is not changed.
        dataset: What it was trained on.
        rate: Share of zeros of each kernel, in [0, 1].

    Raises:
        RuntimeError: if a zero was lost on the way.
    """
    import str_keras as stk

    model = stk.strip(stk.prune(dense, rate))
    accuracies = [_accuracy(model, dataset)]
    zeros = stk.summary(model).kernels.nonzeros
    stk.recalibrate(model, dataset.train(0, BATCH), verbose=False)
    accuracies.append(_accuracy(model, dataset))
    frozen: Any = stk.freeze_mask(model)
    settings = dict(FINE_TUNING)
    epochs, lr = int(settings.pop("epochs")), settings.pop("lr")
    frozen.compile(stk.optimizers.SGD(lr, **settings), _loss())
    for epoch in range(epochs):
        frozen.fit(dataset.train(epoch, BATCH), shuffle=False, verbose=0)
    model = stk.strip(frozen)
    stk.recalibrate(model, dataset.train(0, BATCH), verbose=False)
    accuracies.append(_accuracy(model, dataset))
    if stk.summary(model).kernels.nonzeros != zeros:
        raise RuntimeError(f"Zeros were lost in fine-tuning. Received: rate={rate}")
    return dict(zip(STAGES, accuracies, strict=True))


def main() -> None:
    """Trains, measures, prints and records."""
    import str_keras as stk
    from experiments import markdown
    from str_keras.files import write_text
    from str_keras.run_directory import git_revision, versions
    from str_keras.tables import text_table

    rows: list[dict[str, float]] = []
    dense_accuracies = []
    dataset = stk.data.load("fashion_mnist_5k")
    for seed in range(FLAGS.seeds):
        dense = stk.strip(_train(seed))
        dense_accuracies.append(_accuracy(dense, dataset))
        for rate in RATES:
            rows.append({"seed": seed, "rate": rate, **measure(dense, dataset, rate)})
            print(rows[-1], flush=True)
    cells = [
        [f"{rate:.0%}"]
        + [_mean([row[s] for row in rows if row["rate"] == rate]) for s in STAGES]
        for rate in RATES
    ]
    print(f"dense: {_mean(dense_accuracies)}")
    print(text_table(["zeros", *STAGES], cells))
    record = {
        "command": shlex.join(["python", "-m", "experiments.after_training"])
        + "".join(f" {shlex.quote(argument)}" for argument in sys.argv[1:]),
        "versions": versions(),
        "git_revision": git_revision(ignore=markdown.WRITTEN),
        "fine_tuning": FINE_TUNING,
        "dense": dense_accuracies,
        "runs": rows,
    }
    write_text(pathlib.Path(FLAGS.output), json.dumps(record, indent=1) + "\n")


def _mean(accuracies: list[float]) -> str:
    return f"{statistics.mean(accuracies):.2%}"


if __name__ == "__main__":
    flags.DEFINE_string("output", "runs/after_training.json", "Where the record goes.")
    flags.DEFINE_integer("seeds", 3, "Dense nets to begin with.", 1)
    flags.DEFINE_integer("epochs", None, "Instead of the recipe's 12 (a trial).", 1)
    cli.run(main)
