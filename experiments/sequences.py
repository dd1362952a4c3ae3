"""Real sequences as arrays: rows of Fashion-MNIST, and a smartwatch's sensors."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib
import zipfile
from typing import Any

import numpy as np

WATCH_FILE = "seglearn/data/watch_dataset.npy"
WATCH_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
WATCH_HELP = (
    "the smartwatch recordings are in a package of 11 MB: get it by `pip download "
    "--no-deps seglearn==1.2.5` and name the file, --watch=seglearn-1.2.5-py3-none-"
    "any.whl"
)
TEST_PEOPLE = (8, 9, 10)
_WINDOW, _HOP, _EVERY = 100, 50, 2  # samples of 50 Hz: 2 s, half of it anew, 25 Hz


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Labeled sequences `[n, steps, features]`, float32, normalized by the train part.

    Args:
        classes: Number of labels.
        train: Sequences and labels.
        test: The same.
    """

    classes: int
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def _normalized(train: tuple, test: tuple) -> Sequences:
    mean, deviation = train[0].mean((0, 1)), train[0].std((0, 1)) + 1e-3
    scaled = [((x - mean) / deviation).astype("float32") for x in (train[0], test[0])]
    return Sequences(
        int(train[1].max()) + 1,
        (scaled[0], train[1].astype("int32")),
        (scaled[1], test[1].astype("int32")),
    )


def fashion_rows() -> Sequences:
    """The 5,000 and 2,000 images of the package, read row by row: 28 steps of 28."""
    import str_keras as stk

    dataset = stk.data.load("fashion_mnist_5k")
    parts = []
    for split, count in (("train", 5000), ("test", 2000)):
        images, labels = dataset.raw(split, count)
        # Two pixels of padding on every side say nothing.
        parts.append((np.asarray(images)[:, 2:-2, 2:-2, 0] / 255, np.asarray(labels)))
    return _normalized(*parts)


def watch(path: str) -> Sequences:
    """Seven shoulder exercises of ten people, six channels of a smartwatch.

    Windows of 2 s, 50 steps at 25 Hz; people 8, 9 and 10 are for the test. Burns et
    al. 2018, https://arxiv.org/abs/1802.01489; seglearn 1.2.5, BSD.

    Args:
        path: The wheel of seglearn 1.2.5, or watch_dataset.npy of it.

    Raises:
        ValueError: if there is no path, or another file: it is a pickle, and is opened
            only if its SHA-256 is that of the published one.
        OSError: if it cannot be read.
    """
    if not path:
        raise ValueError(WATCH_HELP)
    content = pathlib.Path(path).read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            if WATCH_FILE not in wheel.namelist():
                raise ValueError(f"{WATCH_HELP}. Received: --watch={path}")
            content = wheel.read(WATCH_FILE)
    if hashlib.sha256(content).hexdigest() != WATCH_SHA256:
        raise ValueError(
            f"this is another file than the published one; {WATCH_HELP}. "
            f"Received: --watch={path}"
        )
    data: dict[str, Any] = np.load(io.BytesIO(content), allow_pickle=True).item()
    windows: dict[bool, list] = {False: [], True: []}
    labels: dict[bool, list] = {False: [], True: []}
    for record, label, person in zip(
        data["X"], data["y"], data["subject"], strict=True
    ):
        test = int(person) in TEST_PEOPLE
        for start in range(0, len(record) - _WINDOW + 1, _HOP):
            windows[test].append(record[start : start + _WINDOW : _EVERY])
            labels[test].append(label)
    parts = [(np.stack(windows[t]), np.array(labels[t])) for t in (False, True)]
    return _normalized(*parts)
