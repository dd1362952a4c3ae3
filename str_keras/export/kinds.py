"""The kinds of .tflite files that are written, and how each is made of a dense one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from str_keras.export.errors import ExportError
from str_keras.export.rewrite import Storage, Weight, rewrite_graph, store, weights
from str_keras.export.rewrite.sizes import Size, bytes_in, packed_bytes, smallest
from str_keras.export.xnnpack import check

WEIGHTS = ("float32", "float16", "int8", "int8_weights")
SMALLEST = ("file", "download")

# Of which types a kernel may be; where a few non-zeros are left, float16 takes less
# than int8 and its scales.
_DTYPES = {
    "float32": ("float32",),
    "float16": ("float16",),
    "int8_weights": ("int8", "float16"),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of .tflite file.

    Attributes:
        weights: "float32", "float16", "int8" (kernels and activations, calibrated) or
            "int8_weights" (kernels alone; computed with in float32).
        sparse: Whether kernels are stored without their zeros where that is smaller.
        smallest: What is to be small then, the "file" or the compressed "download".
    """

    weights: str = "float32"
    sparse: bool = False
    smallest: str = "file"

    @property
    def name(self) -> str:
        """Such as "float16-sparse"; a part of file names."""
        parts = [self.weights, "sparse" * self.sparse]
        parts += ["download" * (self.smallest == "download")]
        return "-".join(part for part in parts if part)

    def check(self) -> None:
        """Refuses kinds that do not exist, or fail on some runtime.

        Raises:
            ExportError: for a combination that fails.
            ValueError: for an unknown value.
        """
        if self.weights == "dynamic":
            raise ValueError(
                "`weights` cannot be dynamic: sparse-encoded, such a file does not "
                "load under LiteRT's default delegate; take int8_weights, which is as "
                "small, or int8 with calibration images. "
                f"Received: weights={self.weights!r}"
            )
        if self.weights not in WEIGHTS:
            raise ValueError(
                f"`weights` is one of {WEIGHTS}. Received: weights={self.weights!r}"
            )
        if self.smallest not in SMALLEST:
            raise ValueError(
                f"`smallest` is one of {SMALLEST}. Received: smallest={self.smallest!r}"
            )
        if self.weights == "int8" and self.sparse:
            raise ExportError(
                "int8 is not written sparse-encoded: where such a file has a Dense "
                "layer it fails to load (failed to delegate FULLY_CONNECTED), and no "
                "runtime has int8 sparse kernels; take int8_weights with sparse=True, "
                "which is smaller and has them, or int8 with sparse=False"
            )
        if self.smallest == "download" and not self.sparse:
            raise ValueError(
                "`smallest` chooses what is stored sparse: take sparse=True. "
                f"Received: smallest={self.smallest!r} with sparse=False"
            )


KINDS = (
    Kind("float32"),
    Kind("float32", sparse=True),
    Kind("float16"),
    Kind("float16", sparse=True),
    Kind("int8"),
    Kind("int8_weights"),
    Kind("int8_weights", sparse=True),
    Kind("int8_weights", sparse=True, smallest="download"),
)
"""All that `variants` writes."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file of some kind.

    Attributes:
        content: Its bytes.
        dense_bytes: Size of the same kind with all zeros stored; None if not sparse.
        rewritten: What was rewritten in the graph, a line an operator.
    """

    content: bytes
    dense_bytes: int | None = None
    rewritten: tuple[str, ...] = ()


def encode(content: bytes, kind: Kind) -> Encoded:
    """Makes a file of a kind of the converter's dense float32 file.

    With `sparse`, each kernel is stored as is smallest, and the graph is rewritten to
    what sparse kernels ask for (see `rewrite.make_ready`). If no kernel were sparse
    then though the model qualifies for sparse kernels, the 1x1 convolution that it
    costs least is made so, or else the Dense layer: one is what they switch on by.

    Args:
        content: Dense float32.
        kind: Of any weights but "int8", which the converter calibrates.

    Raises:
        ExportError: if a kernel is not finite.
    """
    if kind == Kind("float32"):
        return Encoded(content)
    dtypes, dense = _DTYPES[kind.weights], content
    ready, rewritten = rewrite_graph(content) if kind.sparse else (content, ())
    kernels = weights(ready)
    if kind.weights != "float32":
        dense = store(content, smallest(dtypes, [False], bytes_in(kernels)))
    if not kind.sparse:
        return Encoded(dense)
    size = bytes_in(kernels) if kind.smallest == "file" else packed_bytes
    choose = smallest(dtypes, size=size)
    storages = [choose(kernel) for kernel in kernels]
    if any(storage.sparse for storage in storages):
        return Encoded(_store(ready, storages), len(dense), rewritten)
    if check(ready, assume_stored=True).is_sparse:
        for tried in _with_one_sparse(kernels, storages, dtypes, size):
            stored = _store(ready, tried)
            if check(stored).is_sparse:
                return Encoded(stored, len(dense), rewritten)
    return Encoded(dense, len(dense))


def _store(content: bytes, storages: Iterable[Storage]) -> bytes:
    chosen = iter(storages)
    return store(content, lambda weight: next(chosen))


def _with_one_sparse(
    kernels: list[Weight], storages: list[Storage], dtypes: tuple[str, ...], size: Size
) -> Iterator[list[Storage]]:
    """Storages with one more kernel sparse; 1x1 convolutions first, and the cheap."""
    choose = smallest(dtypes, [True], size)
    ways = []
    for place, kernel in enumerate(kernels):
        if _is_pointwise(kernel) or kernel.operator == "FULLY_CONNECTED":
            sparse = choose(kernel)
            cost = size(kernel, sparse) - size(kernel, storages[place])
            ways.append((not _is_pointwise(kernel), cost, place, sparse))
    for _, _, place, sparse in sorted(ways, key=lambda way: way[:3]):
        yield [*storages[:place], sparse, *storages[place + 1 :]]


def _is_pointwise(kernel: Weight) -> bool:
    return kernel.operator == "CONV_2D" and kernel.values.shape[1:3] == (1, 1)
