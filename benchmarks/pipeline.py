"""How near the input pipeline is to the decoder: `python -m benchmarks.pipeline`.

The images of ImageNet's training (JPEG, random window, resize, flip, normalize, batch)
against the decoder alone: it reads the same files and decodes the same kind of windows,
in the same number of threads, and throws them away. And against the decoder and the
antialiased resize, the least that a pipeline of 224 pixels does. In turn, round by
round. The files are windows of one photograph that comes with Matplotlib, enlarged to
ImageNet's usual 500x375 pixels.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).parent
GOAL = 0.9
"""Of the decoder's images a second."""
WIDTH, HEIGHT, QUALITY, SIDE = 500, 375, 95, 224


def write_images(folder: pathlib.Path, count: int) -> list[str]:
    """Windows of a photograph as JPEG, in two classes; their paths.

    Args:
        folder: For train/ and test/.
        count: Of images to train on.
    """
    import numpy as np
    from matplotlib import cbook
    from PIL import Image

    source: Any = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    photograph = Image.open(source).convert("RGB")
    rng, paths = np.random.default_rng(0), []
    for i in range(count + 2):
        width = int(rng.integers(photograph.width // 2, photograph.width))
        height = width * HEIGHT // WIDTH
        left = int(rng.integers(0, photograph.width - width + 1))
        top = int(rng.integers(0, photograph.height - height + 1))
        window = photograph.crop((left, top, left + width, top + height))
        split = "train" if i < count else "test"
        path = folder / split / f"class{i % 2}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        window.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(
            path, quality=QUALITY
        )
        if split == "train":
            paths.append(str(path))
    return paths


def decoder(paths: list[str], epoch: int, size: int | None = None) -> Any:
    """Windows, one after the other, as the training takes them: decoded, no more.

    Args:
        paths: Of the files.
        epoch: Of which the windows are.
        size: To which windows are resized; None to leave them.
    """
    import tensorflow as tf

    from str_keras.data import augment
    from str_keras.processors import usable_cores

    def decode(path: Any, index: Any) -> Any:
        image = tf.io.read_file(path)
        shape = tf.io.extract_jpeg_shape(image)
        number = [augment.RESIZED_CROP_DRAWS]
        seed = tf.stack([tf.constant(epoch, tf.int64), index])
        draws = tf.random.stateless_uniform(number, seed, alg="philox")
        box = augment.sample_crop_box(shape[0], shape[1], draws)
        window = tf.io.decode_and_crop_jpeg(
            image, box, channels=3, dct_method="INTEGER_ACCURATE"
        )
        if size:
            window = tf.image.resize(window, [size, size], antialias=True)
        return tf.reduce_max(window)  # a number, so that windows need no batch

    indices = tf.range(len(paths), dtype=tf.int64)
    data = tf.data.Dataset.from_tensor_slices((paths, indices))
    data = data.map(decode, num_parallel_calls=usable_cores()).batch(len(paths))
    options = tf.data.Options()
    options.autotune.enabled = False  # as in the pipeline; it may leave cores idle
    return data.with_options(options)


def measure(folder: pathlib.Path, count: int, rounds: int, batch: int) -> list[dict]:
    """Images a second of both, and their ratio.

    Args:
        folder: For the files.
        count: Of images, a multiple of the batch.
        rounds: That count; one before does not.
        batch: Images a batch.
    """
    import numpy as np
    from tqdm import tqdm

    import str_keras as stk
    from benchmarks import figures

    paths = write_images(folder, count)
    images = stk.data.load(f"folder:{folder}", image_size=SIDE, augment="imagenet")
    speeds: dict[str, list[float]] = {"pipeline": [], "decoder": [], "resized": []}
    for number in tqdm(range(rounds + 1), desc="rounds", disable=None):
        ways = {
            "pipeline": lambda n=number: images.train(n, batch),
            "decoder": lambda n=number: decoder(paths, n),
            "resized": lambda n=number: decoder(paths, n, SIDE),
        }
        for name, make in ways.items():
            started = time.perf_counter()
            for _ in make():
                pass
            if number:
                speeds[name].append(count / (time.perf_counter() - started))
    ours = speeds["pipeline"]
    to_decoder, to_resized = (
        np.divide(ours, speeds[name]).tolist() for name in ("decoder", "resized")
    )
    return [
        figures.row(f"input pipeline, {SIDE} pixels", "images/s", ours),
        figures.row("decoder", "images/s", speeds["decoder"]),
        figures.row("decoder and resize", "images/s", speeds["resized"]),
        figures.row("pipeline to decoder", "", to_decoder, GOAL),
        figures.row("pipeline to decoder and resize", "", to_resized),
    ]


def main() -> None:
    """Measures, prints and records."""
    from benchmarks import figures

    if FLAGS.images % FLAGS.batch_size:
        raise ValueError(
            "--images is a multiple of --batch_size. Received: "
            f"images={FLAGS.images}, batch_size={FLAGS.batch_size}"
        )
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(
            pathlib.Path(folder), FLAGS.images, FLAGS.rounds, FLAGS.batch_size
        )
    path = pathlib.Path(FLAGS.output)
    print(figures.write("pipeline", rows, None, path), f"written to {path}", sep="\n\n")


if __name__ == "__main__":
    flags.DEFINE_integer(
        "images", 2048, "Files; few overrate what an epoch costs to begin.", 1
    )
    flags.DEFINE_integer("batch_size", 64, "Images a batch.", 1)
    flags.DEFINE_integer("rounds", 9, "That count, after one that does not.", 2)
    flags.DEFINE_string("output", str(HERE / "results/pipeline.csv"), "The table.")
    cli.run(main)
