"""Writes the subset of Fashion-MNIST that comes with the package.

    python tools/embed_fashion_mnist.py --source_dir=/usr/share/datasets/fashion-mnist

The same files and seed give the same subset, image for image.
"""

import pathlib
import sys

from absl import app, flags

from str_keras.data import fashion_mnist

_SOURCE_DIR = flags.DEFINE_string(
    "source_dir",
    fashion_mnist.DEBIAN_DIR,
    "Folder of the four original .gz files (Debian package dataset-fashion-mnist).",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    str(
        pathlib.Path(fashion_mnist.__file__).parent
        / "embedded"
        / fashion_mnist.EMBEDDED_FILE
    ),
    "The .npz file to write.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Decides which images are taken.")


def main(argv: list[str]) -> None:
    """Reads, chooses, writes, prints size and checksum."""
    del argv
    try:
        arrays = fashion_mnist.read_folder(_SOURCE_DIR.value)
        digest = fashion_mnist.write_subset(arrays, _OUTPUT.value, _SEED.value)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = pathlib.Path(_OUTPUT.value).stat().st_size
    print(f"{_OUTPUT.value}: {size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    app.run(main)
