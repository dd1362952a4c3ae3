"""What is found of a file: node by node, cluster by cluster, by kind of CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

from str_keras.tables import text_table

TARGETS = {
    "arm": "Arm, as in phones",
    "wasm": "WebAssembly, in the browser",
    "x86_no_avx": "x86 without AVX",
    "x86_avx": "x86 with AVX, as in PCs and servers",
}
"""Kinds of CPU. XNNPACK's `xnn_is_chw_compatible_config`, in
src/xnnpack/hardware-config.h, leaves sparse inference off on x86 with AVX alone."""
AVX = "x86_avx"


@dataclasses.dataclass(frozen=True)
class NodeCheck:
    """A node of XNNPACK's graph, or an operator that XNNPACK does not take.

    Attributes:
        name: Its Keras layer, as far as the file tells, or the tensor that it gives.
        kind: "conv", "depthwise", "fully_connected" (1x1 convolutions too), "mean",
            "unary", "binary", "resize", "depth_to_space", or another operator's name.
        holds: Whether sparse inference takes it as it is and where it stands.
        sparse: Whether it reads or gives NCHW where sparse inference is on.
        spatial: Whether it works on height and width.
        rule: Name of the rule that fails, or "".
        reason: What is against it.
        mend: What to do.
    """

    name: str
    kind: str
    holds: bool
    sparse: bool
    spatial: bool
    rule: str = ""
    reason: str = ""
    mend: str = ""


@dataclasses.dataclass(frozen=True)
class ClusterCheck:
    """Connected nodes that are turned to NCHW together, or could be.

    Attributes:
        nodes: Their names, in order.
        params: Weights of its 1x1 convolutions and fully connected nodes.
        zeros: How many of them are zero.
        sparse: Whether it is turned, where sparse inference is on.
        rule: Why not, or why it is turned and goes wrong; or "".
        reason: The same in words.
    """

    nodes: tuple[str, ...]
    params: int
    zeros: int
    sparse: bool
    rule: str = ""
    reason: str = ""

    @property
    def share(self) -> float:
        """Share of zeros, in [0, 1]."""
        return self.zeros / self.params

    @property
    def passes(self) -> bool:
        """Whether more than two thirds are zero, as is wanted."""
        return 3 * self.zeros > 2 * self.params


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a file does on a kind of CPU.

    Attributes:
        kind: "sparse": right, on sparse kernels; "dense": right, on dense ones;
            "refused": it does not load; "wrong": it runs, and its outputs are not the
            model's, without a word.
        rule: The rule that decides, or "".
        node: Name of the node that breaks it, or "".
        reason: What is against it, or "".
        mend: What to do.
    """

    kind: str
    rule: str = ""
    node: str = ""
    reason: str = ""
    mend: str = ""

    @property
    def why(self) -> str:
        """Node and reason in one."""
        return f"{self.node}: {self.reason}" if self.node else self.reason


@dataclasses.dataclass(frozen=True)
class SparseCheck:
    """What XNNPACK's sparse inference makes of a file.

    Attributes:
        nodes: All, in order of execution.
        clusters: Of those with weights to count.
        verdicts: By target, see `TARGETS`.
    """

    nodes: tuple[NodeCheck, ...]
    clusters: tuple[ClusterCheck, ...]
    verdicts: dict[str, Verdict]

    @property
    def is_safe(self) -> bool:
        """Whether it loads and gives right outputs on every target."""
        return all(v.kind in ("sparse", "dense") for v in self.verdicts.values())

    @property
    def is_sparse(self) -> bool:
        """Whether sparse kernels run, and right, on every target that has them."""
        return all(v.kind == "sparse" for t, v in self.verdicts.items() if t != AVX)

    @property
    def sparse_share(self) -> float:
        """Share of the clusters' weights that sparse kernels run on, in [0, 1]."""
        total = sum(cluster.params for cluster in self.clusters)
        turned = sum(cluster.params for cluster in self.clusters if cluster.sparse)
        return turned / total if total else 0.0

    @property
    def failures(self) -> tuple[NodeCheck, ...]:
        """Nodes on height and width for which a rule fails.

        Not those before the first convolution, where a sparse part begins.
        """
        kinds = ("conv", "depthwise", "fully_connected")
        starts = (i for i, n in enumerate(self.nodes) if n.kind.startswith(kinds))
        nodes = self.nodes[next(starts, 0) :]
        return tuple(n for n in nodes if not n.holds and n.spatial)

    def to_json(self) -> dict[str, Any]:
        """All of it, in lists and dictionaries."""
        told = dataclasses.asdict(self)
        for cluster, row in zip(self.clusters, told["clusters"], strict=True):
            row |= {"share": cluster.share, "passes": cluster.passes}
        return told | {
            "is_safe": self.is_safe,
            "is_sparse": self.is_sparse,
            "sparse_share": self.sparse_share,
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _state(cluster: ClusterCheck) -> str:
    if not cluster.sparse:
        return f"dense: {cluster.rule}"
    return f"wrong: {cluster.rule}" if cluster.rule else "sparse"


def _verdict_rows(found: SparseCheck) -> list[tuple[str, ...]]:
    """A row per target; a reason that the row above gives is not repeated."""
    rows, above = [], ""
    for target, verdict in found.verdicts.items():
        why = "the same" if verdict.why and verdict.why == above else verdict.why
        rows.append((TARGETS[target], verdict.kind, verdict.rule or "-", why))
        above = verdict.why
    return rows


def _lines(found: SparseCheck) -> list[str]:
    rows = _verdict_rows(found)
    lines = [text_table(("on", "runs", "rule", "because"), rows, left=(0, 1, 2, 3))]
    rows = [
        (
            " to ".join(dict.fromkeys((cluster.nodes[0], cluster.nodes[-1]))),
            f"{cluster.zeros:,}",
            f"{cluster.params:,}",
            f"{cluster.share:.2%}",
            "yes" if cluster.passes else "no",
            _state(cluster),
        )
        for cluster in found.clusters
    ]
    if rows:
        columns = ("1x1 convolutions", "zeros", "of weights", "share", "over 2/3", "is")
        lines += ["", text_table(columns, rows, left=(0, 4, 5))]
    if found.failures:
        rows = [(n.name, n.kind, n.rule, n.reason) for n in found.failures]
        columns = ("rule fails for", "which is", "rule", "because")
        lines += ["", text_table(columns, rows, left=(0, 1, 2, 3))]
    mends = {n.rule: n.mend for n in found.failures}
    mends |= {v.rule: v.mend for v in found.verdicts.values() if v.mend}
    if mends:
        lines += ["", "Mends:", *(f"- {rule}: {mend}." for rule, mend in mends.items())]
    return lines
