"""Trains with CERN's PQuantML: an outside rival on the same data and net.

    .venv-pquant/bin/python -m experiments.pquant_twin --config=quickstart \\
        --method=pquant_dst --knobs='{"alpha": 0.001}' --output=r.json

A program of its own, in an environment of its own (`make pquant`): PQuantML brings
packages that nothing else here needs. `train_with_pquant` starts it. PQuantML is of
Keras 3, so it converts our very net (`add_compression_layers`), with the same initial
weights; data, order, learning rates, decay, smoothing and the rule of SGD are ours,
the loop over the epochs is its `train_model`. Quantization is off. All kernels are
pruned, as by our own methods; the final ones are counted in the plain net.

Its methods, here called pquant_autosparse, pquant_dst and pquant_cs, take no sparsity:
knobs lead it, which `pquant_recipes` has by level. A knob is a field of PQuantML's
`pruning_parameters`; `decay`, the L2 of the thresholds, which is the optimizer's (0 if
not given); or `fine_tuning`, the share of the epochs that comes last, with the mask
frozen (0 if not given). What else is not as shipped:
- One round without a rewind to early weights: CS's three rounds of 85 epochs and as
  many of fine-tuning do not go into 12.
- AutoSparse's alpha ends after nine tenths of the epochs, as it ships for 100.
- Where AutoSparse has no fine-tuning its final kernels keep the soft threshold. As
  shipped, its end takes that off and so makes another function of the net that was
  trained; fine-tuning trains that one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import statistics
import tempfile
from collections.abc import Mapping
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
METHODS = ("pquant_autosparse", "pquant_dst", "pquant_cs")
PYTHON = "STR_KERAS_PQUANT"
"""Environment variable: the Python that has PQuantML, if not that of `make pquant`."""
TOLERANCE = 1e-6
"""Largest difference of the dense logits to those of our net, relative."""
_COMPARED = 64  # images whose first logits are
_PACKAGES = ("tensorflow", "keras", "pquant-ml", "numpy")

Knobs = Mapping[str, Any]


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string(
        "config", None, "A .toml file, its name under experiments/configs, or a .json."
    )
    flags.DEFINE_enum("method", None, METHODS, "Of PQuantML.")
    flags.DEFINE_string("knobs", "{}", "What leads the method, as JSON.")
    flags.DEFINE_integer("seed", None, "Of weights and order; else that of --config.")
    flags.DEFINE_string("data_dir", "", "Of the images, as of experiments.run.")
    flags.DEFINE_integer("limit", None, "So many images only (to try it out).", 1)
    flags.DEFINE_string("output", None, "The .json to write.")
    flags.DEFINE_string(
        "weights", None, "An .npz for the final weights of the Keras net, in its order."
    )


def python() -> pathlib.Path:
    """The Python that has PQuantML.

    Raises:
        RuntimeError: if there is none.
    """
    named = os.environ.get(PYTHON)
    default = outside.CHECKOUT / ".venv-pquant" / "bin" / "python"
    path = pathlib.Path(named) if named else default
    if not path.is_file():
        raise RuntimeError(
            f"PQuantML has an environment of its own, and it is not there: run `make "
            f"pquant`, or name its Python in {PYTHON}. Received: {path}"
        )
    return path


def train_with_pquant(
    config: TrainConfig,
    method: str,
    knobs: Knobs,
    data_dir: str = "",
    limit: int | None = None,
    threads: int | None = None,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Trains a net with PQuantML in a process of its own.

    Args:
        config: Of the method dense, on a data set of `arrays`.
        method: One of `METHODS`.
        knobs: What leads it.
        data_dir: Of `arrays.load`.
        limit: Images of each split that are used; None for all.
        threads: CPU threads; None for all.

    Returns:
        A row and the final weights. The row: `accuracy` (of the test images, in
        [0, 1]), `sparsity` (of all kernels), `nonzeros` and `params` (by kernel path),
        `seconds` (of each epoch), `images_per_second` (of the median epoch),
        `forward_difference` (of the first logits, relative), `hardware` and `versions`.
        The weights are those of the dense Keras net, for its `set_weights`: with zeros
        where PQuantML pruned.

    Raises:
        ValueError: if the configuration is not of that kind.
        training.Diverged: if the loss is not finite.
        RuntimeError: if its environment is not there, or the program fails, with its
            last line: no such knob, say.
    """
    _check(config, method)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        output, final = folder / "result.json", folder / "final.npz"
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        command = [str(python()), "-m", "experiments.pquant_twin"]
        command += [f"--config={folder / 'config.json'}", f"--method={method}"]
        command += [f"--knobs={json.dumps(dict(knobs))}"]
        command += [f"--output={output}", f"--weights={final}"]
        if data_dir:
            command += [f"--data_dir={pathlib.Path(data_dir).absolute()}"]
        if limit is not None:
            command += [f"--limit={limit}"]
        outside.start("PQuantML", command, threads)
        return json.loads(output.read_text()), outside.read_weights(final)


def _check(config: TrainConfig, method: str) -> None:
    if method not in METHODS:
        raise ValueError(
            f"PQuantML's methods are {', '.join(METHODS)}. Received: {method=}"
        )
    if config.method != "dense":
        raise ValueError(
            "PQuantML prunes by itself and takes a configuration of --method=dense. "
            f"Received: method={config.method!r}"
        )


def _run(
    config: TrainConfig, method: str, knobs: Knobs, images: Any
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The row and the final weights of `train_with_pquant`."""
    import keras

    from experiments import pquant_training as training
    from experiments import records
    from experiments.arrays import NUM_CLASSES
    from str_keras import building

    first = images.train(config.seed, 0, config.batch_size)
    steps, shape = len(first), images.image_shape
    config = building.resolve(config, shape[0], steps)
    keras.utils.set_random_seed(config.seed)
    plain: Any = building.create_dense(config, shape, NUM_CLASSES)
    wanted = training.configure(method, knobs, config.epochs)
    model = training.wrap(plain, wanted)
    difference = training.first_difference(plain, model, first[0][0][:_COMPARED])
    if not difference <= TOLERANCE:
        raise ValueError(
            "PQuantML's net is not ours before it prunes: their logits differ by up to "
            f"{difference:.2g} (relative), more than {TOLERANCE}. "
            f"Received: architecture={config.architecture!r}"
        )
    training.compile_as_ours(model, config, knobs.get(training.DECAY, 0.0), steps)
    seconds = training.fit(model, wanted, config, images)
    training.finish(plain, model, wanted)
    speed = steps * config.batch_size / statistics.median(seconds)
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS")
    row = {
        **training.measure(plain, images.test(config.batch_size)),
        "seconds": seconds,
        "images_per_second": round(speed, 1),
        "forward_difference": difference,
        "hardware": records.hardware(int(threads) if threads else None),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return row, plain.get_weights()


def _knobs() -> dict[str, Any]:
    try:
        knobs = json.loads(FLAGS.knobs)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--knobs is no JSON: {error}. Received: knobs={FLAGS.knobs!r}"
        ) from error
    if not isinstance(knobs, dict):
        raise ValueError(f"--knobs are values by name. Received: knobs={FLAGS.knobs!r}")
    return knobs


def main() -> None:
    """Reads the flags, trains, writes files."""
    for name in ("config", "method", "output"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is missing; --help says what it is.")
    knobs = _knobs()
    values = dict(read(find(FLAGS.config)))
    if FLAGS["seed"].present:
        values["seed"] = FLAGS.seed
    # What another method learns by, a configuration of ours may have.
    values |= {"method": "dense", "threshold_decay": None, "s_init": None}
    config = from_dict(values, FLAGS.config)
    _check(config, FLAGS.method)

    from experiments import arrays, small_nets

    small_nets.register()
    images = arrays.load(config.dataset, FLAGS.data_dir or config.data_dir or None)
    if FLAGS.limit is not None:
        images = images.limit(FLAGS.limit)
    row, weights = _run(config, FLAGS.method, knobs, images)
    if FLAGS.weights:
        with files.written_aside(FLAGS.weights) as aside:
            np.savez(aside, *weights)
    files.write_text(FLAGS.output, json.dumps(row, indent=1) + "\n")
    print(f"accuracy {row['accuracy']:.4f}  sparsity {100 * row['sparsity']:.2f} %")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
