"""Which of a model's files is the smallest on disk, to download, and the fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from str_keras.export.kinds import Kind
from str_keras.export.report import TFLiteReport
from str_keras.export.xnnpack import TARGETS


@dataclasses.dataclass(frozen=True)
class Variant:
    """One file of several of a model.

    Attributes:
        kind: What kind it is.
        report: What was written and compared.
        zstd_bytes: Its size as `zstd -19` packs it.
    """

    kind: Kind
    report: TFLiteReport
    zstd_bytes: int


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """A file for a goal.

    Attributes:
        goal: "smallest on disk", "smallest to download" or "fastest on TARGET".
        kind: The name of the file's kind.
        because: What it rests on.
    """

    goal: str
    kind: str
    because: str


def recommend(
    variants: Sequence[Variant],
    seconds: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[Recommendation, ...]:
    """Recommends a file for each goal.

    The fastest is told by measured times where there are any. Else by what is known
    without: where sparse kernels are on, they are the same for all files that switch
    them on, so it is the smallest of these; where they are off, it is int8, for its
    integer kernels, or else the smallest, as all other files run on the same float
    kernels. Accuracy is not weighed: it is beside each file.

    Args:
        variants: The files, one or more.
        seconds: Of an inference, by target and by name of the kind.

    Raises:
        ValueError: for a target or kind that is not there.
    """
    measured = dict(seconds or {})
    check_measured(measured, [variant.kind.name for variant in variants])
    disk = min(variants, key=lambda v: v.report.bytes)
    found = [Recommendation("smallest on disk", disk.kind.name, _bytes(disk))]
    packed = min(variants, key=lambda v: v.report.gzip_bytes)
    said = f"{packed.report.gzip_bytes:,} bytes by gzip"
    zstd = min(variants, key=lambda v: v.zstd_bytes)
    said += f", {packed.zstd_bytes:,} by zstd"
    if zstd is not packed:
        said += f"; by zstd it is {zstd.kind.name}, {zstd.zstd_bytes:,}"
    found.append(Recommendation("smallest to download", packed.kind.name, said))
    for target in TARGETS:
        kind, because = _fastest(target, variants, measured.get(target))
        found.append(Recommendation(f"fastest on {target}", kind, because))
    return tuple(found)


def _bytes(variant: Variant) -> str:
    return f"{variant.report.bytes:,} bytes"


def check_measured(
    seconds: Mapping[str, Mapping[str, float]], kinds: Sequence[str]
) -> None:
    """Checks the names in measured times.

    Raises:
        ValueError: for a target or kind that is not there.
    """
    for target, times in seconds.items():
        if target not in TARGETS or not times or not set(times) <= set(kinds):
            raise ValueError(
                f"`seconds` has times by target, one of {tuple(TARGETS)}, and by kind, "
                f"of {tuple(sorted(kinds))}. Received: {target}={dict(times)}"
            )


def _fastest(
    target: str, variants: Sequence[Variant], times: Mapping[str, float] | None
) -> tuple[str, str]:
    if times:
        (first, least), *rest = sorted(times.items(), key=lambda item: item[1])
        said = f"measured: {1000 * least:.3g} ms"
        if rest:
            said += f", {rest[0][0]} {1000 * rest[0][1]:.3g} ms"
        return first, said
    by_bytes = sorted(variants, key=lambda v: v.report.bytes)
    sparse = [v for v in by_bytes if v.report.runs[target] == "sparse"]
    integer = [v for v in variants if v.kind.weights == "int8"]
    if sparse:
        said = "sparse kernels are on, the same for each such file; not timed"
        return sparse[0].kind.name, said + ", nor against int8" * bool(integer)
    if integer:
        return integer[0].kind.name, "no sparse kernels; integer ones; not timed"
    return by_bytes[0].kind.name, "no sparse kernels: the same float ones for all"


def to_json(variant: Variant) -> dict[str, Any]:
    """The numbers of a variant."""
    report = variant.report
    names = ("bytes", "gzip_bytes", "params", "nonzeros", "stored", "difference")
    names += ("agreement", "top1", "runs")
    return {
        "kind": variant.kind.name,
        **{name: getattr(report, name) for name in names},
        "zstd_bytes": variant.zstd_bytes,
        "rewritten": list(report.rewritten),
    }
