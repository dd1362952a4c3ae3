"""Evaluates a model file on test images: `python -m str_keras.evaluate --model=FILE`.

FILE is a .keras file, a .tflite file or the directory of a SavedModel. In a run
directory the data set is that of the run, elsewhere --dataset names it.
"""

from __future__ import annotations

import dataclasses
import json

from absl import flags

from str_keras import cli

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string("model", None, "A .keras or .tflite file, or a SavedModel.")
    flags.DEFINE_string(
        "dataset",
        "",
        "As of str_keras.train; empty: that of the run the model lies in.",
    )
    flags.DEFINE_string("data_dir", "", "Where the data set lies.")
    flags.DEFINE_integer("image_size", 0, "Pixels a side; 0: the data set's own.", 0)
    flags.DEFINE_integer(
        "channels", 0, "3 shows gray images as color; 0: as stored.", 0
    )
    flags.DEFINE_integer("batch_size", 128, "Images at once.", 1)
    flags.DEFINE_integer("num_images", 0, "How many test images; 0: all.", 0)
    flags.DEFINE_string("json", "", "File to write the figures to.")


def main() -> None:
    """Loads, runs and prints."""
    if not FLAGS.model:
        raise ValueError("--model is missing: name a .keras, .tflite or SavedModel.")
    from str_keras import data, evaluation
    from str_keras.files import write_text
    from str_keras.run_directory import dataset_of_run

    arguments = {} if FLAGS.dataset else dataset_of_run(FLAGS.model)
    given = {
        "name": FLAGS.dataset,
        "data_dir": FLAGS.data_dir,
        "image_size": FLAGS.image_size,
        "channels": FLAGS.channels,
    }
    arguments |= {name: value for name, value in given.items() if value}
    model = evaluation.load(FLAGS.model)
    if "name" not in arguments:
        raise ValueError("--dataset is missing: this model lies in no run directory.")
    found = evaluation.evaluate(
        model, data.load(**arguments), FLAGS.batch_size, FLAGS.num_images
    )
    print(evaluation.as_text(found))
    if FLAGS.json:
        write_text(FLAGS.json, json.dumps(dataclasses.asdict(found), indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
