"""Every kind of .tflite file of one model, with sizes and what to take for what."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from str_keras.export import targets
from str_keras.export.errors import ExportError
from str_keras.export.flatbuffer import count_operators
from str_keras.export.kinds import KINDS, Encoded, Kind
from str_keras.export.plain import PreprocessingLike
from str_keras.export.recommending import (
    Recommendation,
    Variant,
    check_measured,
    recommend,
    to_json,
)
from str_keras.export.writing import TFLiteWriter, check_target
from str_keras.files import claim_file
from str_keras.tables import text_table


@dataclasses.dataclass(frozen=True)
class VariantsReport:
    """The files of one model.

    Attributes:
        variants: Those that were written.
        left_out: Kinds that say nothing new, by name: why.
        refused: Kinds that could not be written, by name: why.
        recommendations: What to take for what.
    """

    variants: tuple[Variant, ...]
    left_out: dict[str, str]
    refused: dict[str, str]
    recommendations: tuple[Recommendation, ...]

    def to_json(self) -> dict[str, Any]:
        """All numbers and reasons."""
        return {
            "files": [to_json(variant) for variant in self.variants],
            "left_out": self.left_out,
            "refused": self.refused,
            "recommendations": [dataclasses.asdict(r) for r in self.recommendations],
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def variants(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    name: str = "model",
    kinds: Iterable[Kind] = KINDS,
    seconds: Mapping[str, Mapping[str, float]] | None = None,
    batch_size: int | None = 1,
    calibration: np.ndarray | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: PreprocessingLike | None = None,
    uint8_input: bool = False,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> VariantsReport:
    """Writes every kind of .tflite file of a model and says which to take.

    Each is written as by `tflite`: loaded, run, compared. A kind that gives no other
    file (sparse storage that makes no kernel smaller) is left out; one that cannot be
    written (int8 without `calibration`, or that proves wrong) is told with the reason.
    The table is written too, as NAME-variants.json.

    Args:
        model: As of `tflite`.
        directory: Where the files go: NAME-float32.tflite, NAME-float16-sparse.tflite
            and so on, each with its .json.
        name: What their names begin with.
        kinds: Which to write, each a `str_keras.export.Kind`.
        seconds: Measured times of an inference, by target of `xnnpack.TARGETS` and by
            name of the kind, for the recommendation.
        batch_size: As of `tflite`, as all that follow.
        calibration: For int8.
        images: What files are verified on.
        labels: For the accuracy.
        class_names: For the JSON.
        preprocessing: What normalizes.
        uint8_input: Whether files take raw pixels.
        tolerance: Of the comparison, but of int8.
        overwrite: Whether files may be replaced. One of a kind that is not written
            now stays, and is told.

    Returns:
        Sizes, comparisons, verdicts and recommendations.

    Raises:
        ExportError: if no kind could be written.
        ValueError: for a bad argument.
        OSError: if a file exists or cannot be written.
    """
    directory = Path(directory)
    paths = {kind: directory / f"{name}-{kind.name}.tflite" for kind in kinds}
    for kind, path in paths.items():  # all before the first is written
        with contextlib.suppress(ExportError):  # told beside what is written
            check_target(path, kind, tolerance)
    seconds = seconds or {}
    check_measured(seconds, [kind.name for kind in paths])
    writer = TFLiteWriter(
        model,
        batch_size=batch_size,
        calibration=calibration,
        images=images,
        labels=labels,
        class_names=class_names,
        preprocessing=preprocessing,
        uint8_input=uint8_input,
    )
    if calibration is not None and any(kind.weights == "int8" for kind in paths):
        with contextlib.suppress(ExportError):
            writer.check_calibration()
    for path in paths.values():
        claim_file(path, overwrite)
        claim_file(path.with_suffix(".json"), overwrite)
    table = claim_file(directory / f"{name}-variants.json", overwrite)
    written: list[Variant] = []
    left_out: dict[str, str] = {}
    refused: dict[str, str] = {}
    digests: dict[bytes, str] = {}
    for kind, path in paths.items():
        if kind.weights == "int8" and calibration is None:
            refused[kind.name] = "int8 needs `calibration`: real images (--dataset)"
            continue
        try:
            encoded = writer.encode(kind)
            same = _says_nothing_new(kind, encoded, digests)
            if same:
                left_out[kind.name] = same
                continue
            report = writer.write(
                path, kind, encoded=encoded, tolerance=tolerance, overwrite=overwrite
            )
        except ExportError as error:
            refused[kind.name] = str(error)
            continue
        digests[_digest(encoded)] = kind.name
        written.append(Variant(kind, report, targets.zstd_bytes(encoded.content)))
    if not written:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in refused.items())
        raise ExportError(f"no file could be written: {reasons}")
    for told in (left_out, refused):
        for kind, path in paths.items():
            if kind.name in told and path.exists():
                told[kind.name] += "; an older file of that name is still there"
    recommended = recommend(written, _of_written(seconds, written))
    made = VariantsReport(tuple(written), left_out, refused, recommended)
    targets.write_json(table, made.to_json())
    return made


def _of_written(
    seconds: Mapping[str, Mapping[str, float]], written: Sequence[Variant]
) -> dict[str, dict[str, float]]:
    names = {variant.kind.name for variant in written}
    found = {
        target: {kind: time for kind, time in times.items() if kind in names}
        for target, times in seconds.items()
    }
    return {target: times for target, times in found.items() if times}


def _digest(encoded: Encoded) -> bytes:
    return hashlib.sha256(encoded.content).digest()


def _says_nothing_new(
    kind: Kind, encoded: Encoded, digests: Mapping[bytes, str]
) -> str:
    if kind.sparse and not count_operators(encoded.content, "DENSIFY"):
        return "no kernel would be smaller without its zeros"
    same = digests.get(_digest(encoded))
    return f"the same file as {same}" if same else ""


def _lines(made: VariantsReport) -> list[str]:
    columns = ("kind", "bytes", "gzip bytes", "zstd bytes", "sparse kernels on")
    columns += ("difference", "agreement", "top-1")
    rows = [
        (
            variant.kind.name,
            f"{variant.report.bytes:,}",
            f"{variant.report.gzip_bytes:,}",
            f"{variant.zstd_bytes:,}",
            _sparse_on(variant) or "-",
            f"{variant.report.difference:.1e}",
            _percent(variant.report.agreement),
            _percent(variant.report.top1),
        )
        for variant in made.variants
    ]
    lines = [text_table(columns, rows, left=(0, 4)), ""]
    first = made.variants[0].report
    lines.append(
        f"{first.nonzeros:,} of {first.params:,} weights are not zero. Compared with "
        f"Keras on {first.verified_on} {first.verified_with}."
    )
    notes: dict[str, list[str]] = {}
    for variant in made.variants:
        notes.setdefault(variant.report.note, []).append(variant.kind.name)
    lines += [f"{', '.join(kinds)}: {note}" for note, kinds in notes.items() if note]
    lines += [f"{kind} was left out: {why}" for kind, why in made.left_out.items()]
    lines += [f"{kind} was not written: {why}" for kind, why in made.refused.items()]
    rows = [(r.goal, r.kind, r.because) for r in made.recommendations]
    return [*lines, "", text_table(("for", "take", "because"), rows, left=(0, 1, 2))]


def _sparse_on(variant: Variant) -> str:
    return ", ".join(t for t, v in variant.report.runs.items() if v == "sparse")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
