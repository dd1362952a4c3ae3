"""Writes kinds of .tflite files of one model, which it converts and runs but once."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from str_keras.export import targets, verify
from str_keras.export.convert import convert, input_spec, refuse_loops
from str_keras.export.flatbuffer import StoredKernel, count_operators, read_kernels
from str_keras.export.inputs import check_class_names, check_labels, make_samples
from str_keras.export.kinds import Encoded, Kind, encode
from str_keras.export.plain import (
    PreprocessingLike,
    kernel_counts,
    plain_model,
    predict,
)
from str_keras.export.report import TFLiteReport
from str_keras.export.xnnpack import SparseCheck, refuse_unsafe
from str_keras.files import claim_file, written_aside


class TFLiteWriter:
    """A model, what its files are verified on, and their form; arguments as `tflite`'s.

    Raises:
        ExportError: for a model that cannot be converted.
        ValueError: for a bad argument.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        batch_size: int | None = 1,
        calibration: np.ndarray | None = None,
        images: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        preprocessing: PreprocessingLike | None = None,
        uint8_input: bool = False,
    ):
        _check_form(batch_size, uint8_input, preprocessing)
        self.model = plain_model(model)
        refuse_loops(self.model, "float32", batch_size)
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.uint8_input = uint8_input
        self.labels = check_labels(labels, images, self.model)
        self.class_names = check_class_names(class_names, self.model)
        self.samples = make_samples(self.model, images, preprocessing)
        self._calibration = calibration

    def write(
        self,
        path: str | os.PathLike[str],
        kind: Kind,
        *,
        encoded: Encoded | None = None,
        tolerance: float | None = None,
        overwrite: bool = False,
    ) -> TFLiteReport:
        """Writes one file and its JSON, as `tflite` does.

        Args:
            path: As of `tflite`.
            kind: What is written.
            encoded: What `encode` gave for the kind; None: it is called here.
            tolerance: As of `tflite`.
            overwrite: As of `tflite`.

        Raises:
            ExportError: for a combination that fails on some runtime, a model that the
                converter refuses, or a file that does not load or differs.
            ValueError: for a bad argument.
            OSError: if the path exists or cannot be written.
        """
        check_target(path, kind, tolerance)
        if kind.weights == "int8":
            self.check_calibration()
        target = claim_file(path, overwrite)
        description = claim_file(target.with_suffix(".json"), overwrite)

        encoded = encoded or self.encode(kind)
        with written_aside(description) as told, written_aside(target) as temporary:
            temporary.write_bytes(encoded.content)
            checked = self._verify(temporary, encoded.content, kind, tolerance)
            # The run proves nothing of where sparse kernels are on.
            found = refuse_unsafe(encoded.content)
            report = TFLiteReport(
                path=str(target),
                weights=kind.weights,
                sparse=kind.sparse,
                batch_size=self.batch_size,
                uint8_input=self.uint8_input,
                bytes=len(encoded.content),
                gzip_bytes=targets.gzip_bytes(encoded.content),
                dense_bytes=encoded.dense_bytes,
                note=_note(encoded, found, self.batch_size),
                smallest=kind.smallest,
                rewritten=encoded.rewritten,
                runs={t: verdict.kind for t, verdict in found.verdicts.items()},
                **checked,
            )
            targets.write_json(told, self._describe(report, encoded.content))
        return report

    def encode(self, kind: Kind) -> Encoded:
        """The bytes of a file of the kind.

        Raises:
            ExportError: for a combination that fails on some runtime, or a model that
                the converter refuses.
            ValueError: for int8 without `calibration`.
        """
        kind.check()
        if kind.weights == "int8":
            return Encoded(self._convert("int8"))
        return encode(self._float32, kind)

    @functools.cached_property
    def _float32(self) -> bytes:
        return self._convert("float32")

    def _convert(self, weights: str) -> bytes:
        (content,) = convert(
            self.model,
            weights=weights,
            encodings=(False,),
            batch_size=self.batch_size,
            calibration=self.check_calibration() if weights == "int8" else None,
            normalize=self.preprocessing if self.uint8_input else None,
        )
        return content

    def check_calibration(self) -> np.ndarray:
        """What int8 is calibrated with: inputs of the file.

        Raises:
            ExportError: for a model that cannot be calibrated.
            ValueError: for no `calibration`, or one that does not fit the model.
        """
        refuse_loops(self.model, "int8", self.batch_size)
        if self._calibration is None:
            raise ValueError(
                "int8 needs `calibration`: real images, in the form of `images`; a "
                "hundred training images will do (--dataset on the command line)"
            )
        samples = make_samples(
            self.model, self._calibration, self.preprocessing, "calibration"
        )
        return samples.raw if self.uint8_input else samples.tensors

    @functools.cached_property
    def _reference(self) -> np.ndarray:
        return predict(self.model, self.samples.tensors)

    def _verify(
        self, path: Path, content: bytes, kind: Kind, tolerance: float | None
    ) -> dict[str, Any]:
        samples, reference = self.samples, self._reference
        inputs = samples.raw if self.uint8_input else samples.tensors
        outputs = verify.run_tflite(path, inputs)
        comparison = verify.compare(outputs, reference)
        verify.check(comparison, kind.weights, tolerance)
        kernels, stored = kernel_counts(self.model), read_kernels(content)
        verify.check_zeros(stored, kernels)
        return {
            "params": sum(kernel.size for kernel in stored),
            "nonzeros": sum(kernel.nonzeros for kernel in stored),
            "model_nonzeros": sum(nonzeros for _, nonzeros in kernels),
            "densify_ops": count_operators(content, "DENSIFY"),
            "stored": _stored(stored),
            "difference": comparison.difference,
            "agreement": comparison.agreement,
            "top1": _accuracy(outputs, self.labels),
            "model_top1": _accuracy(reference, self.labels),
            "verified_on": len(reference),
            "verified_with": samples.source,
        }

    def _describe(self, report: TFLiteReport, content: bytes) -> dict[str, Any]:
        dtype = "uint8" if self.uint8_input else None
        spec = input_spec(self.model, self.batch_size, dtype)
        preprocessing = self.preprocessing
        verified = ("difference", "agreement", "top1", "model_top1")
        return {
            "file": Path(report.path).name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": report.bytes,
            "weights": report.weights,
            "sparse": report.sparse,
            "kernels": report.stored,
            "rewritten": list(report.rewritten),
            "runs": report.runs,
            "params": report.params,
            "nonzeros": report.nonzeros,
            "input": {
                "name": spec.name,
                "shape": list(spec.shape),
                "dtype": spec.dtype.name,
                "normalized": not report.uint8_input,
            },
            "output": {"name": "logits"},
            "labels": self.class_names,
            "preprocessing": None if preprocessing is None else preprocessing.to_json(),
            "verified": {
                "on": f"{report.verified_on} {report.verified_with}",
                **{name: getattr(report, name) for name in verified},
            },
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        }


def check_target(
    path: str | os.PathLike[str], kind: Kind, tolerance: float | None
) -> None:
    """Checks what can be known of a file before there is a model.

    Raises:
        ExportError: for a kind that fails on some runtime.
        ValueError: for a bad argument.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"`tolerance` must be in [0, 1). Received: {tolerance=}")
    if Path(path).suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    kind.check()


def _check_form(
    batch_size: int | None,
    uint8_input: bool,
    preprocessing: PreprocessingLike | None,
) -> None:
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size > 0):
        raise ValueError(
            f"`batch_size` is a positive integer, or None. Received: {batch_size=}"
        )
    if uint8_input and preprocessing is None:
        raise ValueError("`uint8_input` needs `preprocessing`: what is to be inside?")


def _stored(kernels: list[StoredKernel]) -> dict[str, int]:
    return dict(Counter(k.dtype + " sparse" * k.sparse for k in kernels))


def _accuracy(outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(outputs.argmax(-1) == labels))


def _note(encoded: Encoded, found: SparseCheck, batch_size: int | None) -> str:
    notes = []
    if encoded.dense_bytes is not None:
        notes += _sparse_notes(encoded, encoded.dense_bytes, found)
    if batch_size is None:
        notes.append(
            "LiteRT.js runs no file of free batch: for a browser give a `batch_size`"
        )
    return ". ".join(notes)


def _sparse_notes(encoded: Encoded, dense_bytes: int, found: SparseCheck) -> list[str]:
    if not count_operators(encoded.content, "DENSIFY"):
        return [
            "no kernel would be smaller without its zeros (too few of them, or kernels "
            "that are tiny): the file is dense"
        ]
    notes = []
    if len(encoded.content) >= dense_bytes:
        notes.append(
            f"not smaller than its dense twin of {dense_bytes:,} bytes: sparse storage "
            "is there to switch sparse kernels on"
        )
    if not found.is_sparse:
        verdict = next(iter(found.verdicts.values()))
        told = f"it runs on dense kernels everywhere: {verdict.why}; {verdict.mend}"
        notes.append(told.removesuffix("; "))
    return notes
