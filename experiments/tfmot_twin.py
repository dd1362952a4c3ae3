"""Prunes with tensorflow-model-optimization: an outside check of our magnitude pruning.

    python -m experiments.tfmot_twin --config=quickstart --sparsity=0.9 --output=r.json

A program of its own, as tfmot turns `tf.keras` into tf_keras for the whole process;
`train_with_tfmot` starts it. It trains a tf_keras twin of the net (`tfmot_nets`) under
tfmot's `prune_low_magnitude`, from the same initial weights, on the same batches in the
same order, with the same learning rate at each step, decay, smoothing and ramp as
`--method=gmp`. Pruned are the same kernels, depthwise ones too (which tfmot by itself
leaves dense), each at the same rate and so to the same number of weights.

Until the ramp begins both trainings are one, up to rounding; the first weights to go
are the same. From there on they differ, and only their accuracies can be compared:
- The gradient of a pruned weight: tfmot overwrites the weight by 0 at every step but
  lets the gradient reach it, so that at the next change of the mask it stands where one
  step (with its momentum, which goes on) brings it, and may return. Batch norm
  multiplies the gradient to a filter that is all zero by 1 / sqrt(epsilon), 316: such
  filters return, with weights that may be a hundred times as large as those kept. In
  Zhu and Gupta 2017, and in ours, pruned weights get no gradient; `--mask_gradients`
  makes it so in the twin.
- The value of a pruned weight: tfmot's starts anew from 0. Ours is kept and decays, and
  returns if the others shrink below it.
- The mask: tfmot chooses it at the changes of the rate and freezes it with the last
  one; ours is the largest weights at every step, to the end.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from experiments import outside
from str_keras import cli, files
from str_keras.config import TrainConfig
from str_keras.config_files import find, from_dict, read

FLAGS = flags.FLAGS
METHODS = ("gmp", "budget_gmp")
"""What is checked."""
_COMPARED = 64  # images whose first logits are
_PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "numpy")


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string(
        "config", None, "A .toml file, its name under experiments/configs, or a .json."
    )
    flags.DEFINE_float("sparsity", None, "Share of zeros; else that of --config.")
    flags.DEFINE_integer("seed", None, "Of weights and order; else that of --config.")
    flags.DEFINE_string("data_dir", "", "Of the images, as of experiments.run.")
    flags.DEFINE_integer("limit", None, "So many images only (to try it out).", 1)
    flags.DEFINE_string(
        "initial",
        None,
        "An .npz of the Keras 3 net's weights in their order; if missing, they are "
        "drawn by --seed as for the other methods.",
    )
    flags.DEFINE_boolean(
        "mask_gradients", False, "No gradient for pruned weights, unlike tfmot's own."
    )
    flags.DEFINE_string("output", None, "The .json to write.")
    flags.DEFINE_string("weights", None, "An .npz for the final ones, as --initial.")


def train_with_tfmot(
    config: TrainConfig,
    initial: Sequence[np.ndarray] | None = None,
    data_dir: str = "",
    limit: int | None = None,
    threads: int | None = None,
    mask_gradients: bool = False,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Trains a configuration with tfmot in a process of its own.

    Args:
        config: Of a method of `METHODS`, on a data set of `arrays`.
        initial: `get_weights()` of the Keras 3 net (`building.create_dense`); if None,
            drawn by the seed, as TensorFlow draws.
        data_dir: Of `arrays.load`.
        limit: Images of each split that are used; None for all.
        threads: CPU threads; None for all.
        mask_gradients: Whether pruned weights get no gradient, as in ours; tfmot's own
            do.

    Returns:
        A row and the final weights. The row: `accuracy` (of the test images, in
        [0, 1]), `sparsity` (of all kernels), `nonzeros` and `params` (by kernel path),
        `seconds` (of each epoch), `images_per_second` (of the median epoch),
        `forward_difference` (of the first logits, relative), `hardware` and `versions`.
        The weights are those of the Keras 3 net, for its `set_weights`: with zeros
        where tfmot pruned.

    Raises:
        ValueError: if the configuration is not of that kind.
        training.Diverged: if the loss is not finite.
        RuntimeError: if the program fails, with its last line: tfmot or TensorFlow is
            not installed, or there is no such net.
    """
    _check(config)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        output, final = folder / "result.json", folder / "final.npz"
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        command = [sys.executable, "-m", "experiments.tfmot_twin"]
        command += [f"--config={folder / 'config.json'}"]
        command += [f"--output={output}", f"--weights={final}"]
        if data_dir:
            command += [f"--data_dir={pathlib.Path(data_dir).absolute()}"]
        if limit is not None:
            command += [f"--limit={limit}"]
        if mask_gradients:
            command += ["--mask_gradients"]
        if initial is not None:
            np.savez(folder / "initial.npz", *initial)
            command += [f"--initial={folder / 'initial.npz'}"]
        outside.start("tfmot", command, threads)
        return json.loads(output.read_text()), outside.read_weights(final)


def _check(config: TrainConfig) -> None:
    if config.method not in METHODS:
        raise ValueError(
            f"tfmot's check is of --method={' and '.join(METHODS)}. "
            f"Received: method={config.method!r}"
        )


def _run(
    config: TrainConfig,
    images: Any,
    initial: list[np.ndarray] | None,
    mask_gradients: bool,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The row and the final weights of `train_with_tfmot`."""
    import keras

    from experiments import records
    from experiments.arrays import NUM_CLASSES
    from str_keras import building, schedules

    first = images.train(config.seed, 0, config.batch_size)
    steps, shape = len(first), images.image_shape
    config = building.resolve(config, shape[0], steps)
    keras.utils.set_random_seed(config.seed)
    ours: Any = building.create(config, shape, NUM_CLASSES, steps)
    plain: Any = building.create_dense(config, shape, NUM_CLASSES)
    plain.set_weights(ours.model.get_weights() if initial is None else initial)
    names = [item.kernel.layer.name for item in ours.thresholded]
    rates = dict(zip(names, ours.rates, strict=True))
    ramp: Any = building.create_ramp(config, steps)
    schedule, length = ours.optimizer.schedule, steps * config.epochs
    learning_rates = schedules.evaluate(schedule, length).astype("float32")

    threads = os.environ.get("TF_NUM_INTRAOP_THREADS")
    # Late: from here on tf.keras is tf_keras.
    from experiments import tfmot_training as training

    plan = training.Plan(
        config,
        learning_rates,
        rates,
        ramp.begin,
        ramp.end,
        ramp.frequency,
        mask_gradients,
    )
    twin, difference = training.create_twin(config, plain, first[0][0][:_COMPARED])
    pruned = training.prune(twin, plan)
    seconds = training.fit(pruned, plan, images)
    stripped = training.strip(pruned)
    training.copy_layers(stripped, plain)
    speed = steps * config.batch_size / statistics.median(seconds)
    row = {
        **training.measure(stripped, images.test(config.batch_size)),
        "seconds": seconds,
        "images_per_second": round(speed, 1),
        "forward_difference": difference,
        "hardware": records.hardware(int(threads) if threads else None),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return row, plain.get_weights()


def main() -> None:
    """Reads the flags, trains, writes files."""
    for name in ("config", "output"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is missing; --help says what it is.")
    values = {"method": "gmp", **read(find(FLAGS.config))}
    for name in ("sparsity", "seed"):
        if FLAGS[name].present:
            values[name] = FLAGS[name].value
    config = from_dict(values, FLAGS.config)
    _check(config)

    from experiments import arrays, small_nets

    small_nets.register()
    images = arrays.load(config.dataset, FLAGS.data_dir or config.data_dir or None)
    if FLAGS.limit is not None:
        images = images.limit(FLAGS.limit)
    initial = outside.read_weights(FLAGS.initial) if FLAGS.initial else None
    row, weights = _run(config, images, initial, FLAGS.mask_gradients)
    if FLAGS.weights:
        with files.written_aside(FLAGS.weights) as aside:
            np.savez(aside, *weights)
    files.write_text(FLAGS.output, json.dumps(row, indent=1) + "\n")
    print(f"accuracy {row['accuracy']:.4f}  sparsity {100 * row['sparsity']:.2f} %")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
