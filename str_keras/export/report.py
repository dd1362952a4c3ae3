"""What an export tells: one report a file, one table for several."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from str_keras.tables import text_table


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """A .tflite file that was written, loaded, run and compared.

    Attributes:
        path: The file; its JSON is beside it.
        weights: "float32", "float16", "int8" or "int8_weights".
        sparse: Whether sparse encoding was asked for.
        batch_size: The fixed batch, or None: free.
        uint8_input: Whether it takes raw pixels.
        bytes: Size of the file.
        gzip_bytes: Size as `gzip -9` packs it: the download.
        dense_bytes: Size of the same file with its zeros stored; None if not sparse.
        params: Elements of the kernels in the file, zeros included.
        nonzeros: Non-zero elements of the kernels in the file.
        model_nonzeros: Those of the Keras model's kernels.
        densify_ops: Kernels stored sparse.
        difference: max|file - Keras| / max|Keras| over the outputs.
        agreement: Share of inputs with Keras' top-1, in [0, 1]; None for one output.
        top1: Accuracy of the file on the labels; None without.
        model_top1: Accuracy of Keras on the same.
        verified_on: Number of inputs.
        verified_with: "images" or "random inputs".
        note: What should be known about the file; may be empty.
        smallest: What sparse encoding was to make small, "file" or "download".
        stored: How many kernels are stored how, such as `{"float16 sparse": 28}`.
        rewritten: What was rewritten in the graph for sparse kernels.
        runs: By target of `xnnpack.TARGETS` "sparse" or "dense": the kernels that run.
    """

    path: str
    weights: str
    sparse: bool
    batch_size: int | None
    uint8_input: bool
    bytes: int
    gzip_bytes: int
    dense_bytes: int | None
    params: int
    nonzeros: int
    model_nonzeros: int
    densify_ops: int
    difference: float
    agreement: float | None
    top1: float | None
    model_top1: float | None
    verified_on: int
    verified_with: str
    note: str
    smallest: str = "file"
    stored: dict[str, int] = dataclasses.field(default_factory=dict)
    rewritten: tuple[str, ...] = ()
    runs: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def encoding(self) -> str:
        """The file's kind, such as "float16 sparse uint8-in"."""
        parts = [self.weights, "sparse" * self.sparse]
        parts += ["download" * (self.smallest == "download")]
        parts += ["uint8-in" * self.uint8_input]
        return " ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class SavedModelReport:
    """A SavedModel that was written, loaded in a fresh process and compared.

    Attributes:
        path: The directory.
        signatures: Names of its signatures.
        bytes: Sum of its files; zeros are stored, so a sparse model is not smaller.
        gzip_bytes: Size of its .tar.gz, which is.
        params: Elements of the model's kernels.
        nonzeros: Non-zero elements of them.
        difference: Largest max|SavedModel - Keras| / max|Keras| over the signatures.
        agreement: Smallest share of inputs with Keras' top-1 over the signatures.
        verified_on: Number of inputs.
        verified_with: "images" or "random inputs".
    """

    path: str
    signatures: tuple[str, ...]
    bytes: int
    gzip_bytes: int
    params: int
    nonzeros: int
    difference: float
    agreement: float | None
    verified_on: int
    verified_with: str
    top1: float | None = None
    note: str = ""

    @property
    def encoding(self) -> str:
        """The directory's kind."""
        return "SavedModel"


@dataclasses.dataclass(frozen=True)
class FormatReport:
    """A float32 file for another runtime that was written, loaded, run and compared.

    Attributes:
        path: The file.
        format: "ONNX" or "OpenVINO".
        bytes: Size of the file, of OpenVINO's .xml and .bin together; zeros are stored,
            so a sparse model is not smaller.
        gzip_bytes: Size as `gzip -9` packs it: the download, which is smaller.
        params: Elements of the kernels in the file, zeros included.
        nonzeros: Non-zero elements of the kernels in the file.
        model_nonzeros: Those of the Keras model's kernels.
        difference: max|file - Keras| / max|Keras| over the outputs.
        agreement: Share of inputs with Keras' top-1, in [0, 1]; None for one output.
        top1: Accuracy of the file on the labels; None without.
        model_top1: Accuracy of Keras on the same.
        verified_on: Number of inputs.
        verified_with: "images" or "random inputs".
        note: What should be known about the file; may be empty.
    """

    path: str
    format: str
    bytes: int
    gzip_bytes: int
    params: int
    nonzeros: int
    model_nonzeros: int
    difference: float
    agreement: float | None
    top1: float | None
    model_top1: float | None
    verified_on: int
    verified_with: str
    note: str = ""

    @property
    def encoding(self) -> str:
        """The file's kind, such as "ONNX float32"."""
        return f"{self.format} float32"


Report = TFLiteReport | SavedModelReport | FormatReport


def report_table(reports: Iterable[Report]) -> str:
    """An aligned text table, a row a file, with the notes under it.

    Args:
        reports: What `tflite`, `saved_model`, `onnx` and `openvino` returned.
    """
    reports = list(reports)
    columns = ("file", "encoding", "bytes", "gzip bytes", "non-zeros", "of weights")
    columns += ("difference", "agreement", "top-1")
    rows = [
        (
            Path(report.path).name,
            report.encoding,
            f"{report.bytes:,}",
            f"{report.gzip_bytes:,}",
            f"{report.nonzeros:,}",
            f"{report.params:,}",
            f"{report.difference:.1e}",
            _percent(report.agreement),
            _percent(report.top1),
        )
        for report in reports
    ]
    lines = [text_table(columns, rows, left=(0, 1))]
    verified = dict.fromkeys(f"{r.verified_on} {r.verified_with}" for r in reports)
    if verified:
        lines.append(f"Compared with Keras on {', '.join(verified)}.")
    lines += [f"{Path(r.path).name}: {r.note}" for r in reports if r.note]
    lines += [
        f"{Path(r.path).name}: rewritten for sparse kernels, outputs as before: "
        f"{_counted(r.rewritten)}"
        for r in reports
        if isinstance(r, TFLiteReport) and r.rewritten
    ]
    return "\n".join(lines)


def _counted(lines: tuple[str, ...]) -> str:
    """Lines "what: where" as "what (how often)"."""
    counts = Counter(line.partition(":")[0] for line in lines)
    return ", ".join(f"{what} ({count})" for what, count in counts.items())


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
