"""From rules, clusters and faults to a verdict for each kind of CPU."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from str_keras.export.errors import ExportError
from str_keras.export.flatbuffer import Graph, read_graphs
from str_keras.export.xnnpack.clusters import Cause, Cluster, Rewriting
from str_keras.export.xnnpack.delegate import NAMES, partitions
from str_keras.export.xnnpack.layouts import SHAPE_ALONE, Fault, faults
from str_keras.export.xnnpack.loading import (
    FLOAT32_BIAS,
    SPARSE_INT8,
    float32_biases,
    sparse_int8,
)
from str_keras.export.xnnpack.names import operator_name
from str_keras.export.xnnpack.nodes import Subgraph
from str_keras.export.xnnpack.results import (
    AVX,
    TARGETS,
    ClusterCheck,
    NodeCheck,
    SparseCheck,
    Verdict,
)
from str_keras.export.xnnpack.rules import Failure

_NO_KERNELS = Failure("cpu", "XNNPACK has no sparse kernels for x86 with AVX", "")
_NO_WEIGHTS = Failure(
    "weights",
    "it has no 1x1 convolution, and only those have sparse kernels",
    "build it of depthwise and 1x1 convolutions",
)
_UNTAKEN = (
    "XNNPACK does not take {}, so that the graph is cut there",
    "build the model without it, or put it before the first convolution or behind the "
    "pooling",
)


def check(content: bytes, *, assume_stored: bool = False) -> SparseCheck:
    """Checks a .tflite file against the rules of XNNPACK's sparse inference.

    Nothing is run: a run proves nothing of another kind of CPU.

    Args:
        content: The bytes of the file.
        assume_stored: Checks as if a kernel of each part of the graph were stored
            sparse, which alone lets XNNPACK try.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer.
    """
    try:
        return _Check(content, assume_stored).result
    except IndexError as error:  # of a tensor or buffer that is not there
        raise ValueError(f"the .tflite model is damaged: {error}") from error


class _Check:
    def __init__(self, content: bytes, assume_stored: bool):
        self.assume_stored = assume_stored
        self.graphs = read_graphs(content)
        self.parts: list[tuple[Rewriting, list[Fault]]] = []
        nodes: list[NodeCheck] = []
        for graph in self.graphs:
            nodes += self._add(graph)
        clusters = [
            self._cluster(rewriting, found, cluster)
            for rewriting, found in self.parts
            for cluster in rewriting.clusters
        ]
        self.result = SparseCheck(tuple(nodes), tuple(clusters), self._verdicts())

    def _add(self, graph: Graph) -> list[NodeCheck]:
        """Checks the partitions of a graph; its nodes, in order of execution."""
        order = {
            int(out): k
            for k, (_, operator) in enumerate(graph.operators)
            for out in operator.outputs
        }
        rows: list[tuple[int, NodeCheck]] = []
        taken: set[int] = set()
        static: set[int] = set()
        for partition in partitions(graph):
            static |= partition.static
            partition.hinted |= self.assume_stored
            rewriting = Rewriting(Subgraph(partition))
            found = faults(rewriting)
            self.parts.append((rewriting, found))
            taken |= {id(operator) for _, operator in partition.operators}
            last = -1
            for i, node in enumerate(rewriting.nodes):
                last = order.get(node.outputs[0], last + 1) if node.outputs else last
                rows.append((last, self._node(rewriting, found, i)))
        for k, (code, operator) in enumerate(graph.operators):
            outputs = [int(out) for out in operator.outputs]
            if id(operator) not in taken and not static.issuperset(outputs):
                rows.append((k, _untaken(graph, NAMES.get(code, "CUSTOM"), operator)))
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def _node(self, rewriting: Rewriting, found: list[Fault], index: int) -> NodeCheck:
        node, subgraph = rewriting.nodes[index], rewriting.subgraph
        tensors = [*node.inputs, *node.outputs]
        row = NodeCheck(
            node.name,
            node.kind,
            holds=True,
            sparse=rewriting.is_turned(index),
            spatial=_is_spatial([subgraph.shape(i) for i in tensors]),
        )
        causes = [fault.cause for fault in found if fault.node == index]
        causes += [cluster.cause for cluster in rewriting.clusters if cluster.cause]
        causes = [self._of(rewriting, cause) for cause in causes if cause.node == index]
        # An operator that cuts the graph has a row of its own.
        failures = [c.failure for c in causes if c.failure.rule != "delegated"]
        failure = rewriting.failures[index] or next(iter(failures), None)
        return row if failure is None else _failing(row, failure)

    def _cluster(
        self, rewriting: Rewriting, found: list[Fault], cluster: Cluster
    ) -> ClusterCheck:
        nodes = cluster.nodes
        names = tuple(dict.fromkeys(rewriting.nodes[i].name for i in nodes))
        sparse, cause = cluster.cause is None, cluster.cause
        if cause is None:
            cause = next((f.cause for f in found if f.node in nodes), None)
        row = ClusterCheck(names, cluster.weights, cluster.zeros, sparse)
        if cause is None:
            return row
        told = _verdict("", rewriting, self._of(rewriting, cause))
        return dataclasses.replace(row, rule=told.rule, reason=told.why)

    def _of(self, rewriting: Rewriting, cause: Cause) -> Cause:
        """A cause as it is told: what comes from outside comes from an operator."""
        if cause.failure.rule not in ("entry", "shared") or cause.node is None:
            return cause
        node, graph = rewriting.nodes[cause.node], rewriting.subgraph.graph
        if cause.failure.rule == "entry":
            tensors = set(node.inputs)
            cut = [graph.producers[i][0] for i in tensors if i in graph.producers]
        else:
            mine = {id(op) for _, op in rewriting.subgraph.partition.operators}
            cut = [
                code
                for code, operator in graph.operators
                if id(operator) not in mine
                and set(node.outputs) & {int(i) for i in operator.inputs}
            ]
        external = [i for i in node.inputs if rewriting.subgraph.is_external(i)]
        outside = cause.failure.rule == "shared" or external
        if not cut or not outside:
            return cause
        reason, mend = _UNTAKEN
        names = " and ".join(dict.fromkeys(NAMES.get(code, "CUSTOM") for code in cut))
        return Cause(Failure("delegated", reason.format(names), mend), cause.node)

    def _verdicts(self) -> dict[str, Verdict]:
        verdicts = dict.fromkeys(TARGETS, self._with_kernels())
        # LiteRT.js 2.5.3 gives outputs the shape that the file tells, and zeros where
        # other runtimes refuse.
        wasm = self._with_kernels(but=SHAPE_ALONE)
        refused = wasm.kind == "refused"
        verdicts["wasm"] = dataclasses.replace(wasm, kind="wrong") if refused else wasm
        verdicts[AVX] = _told("dense", _NO_KERNELS)
        for graph in self.graphs:
            for name in float32_biases(graph):
                verdicts["wasm"] = _told("wrong", FLOAT32_BIAS, name)
            for name in sparse_int8(graph):
                verdicts = dict.fromkeys(TARGETS, _told("refused", SPARSE_INT8, name))
                verdicts["wasm"] = _told("wrong", SPARSE_INT8, name)
        return verdicts

    def _with_kernels(self, but: str = "") -> Verdict:
        for refused, kind in ((True, "refused"), (False, "wrong")):
            for rewriting, found in self.parts:
                for fault in found:
                    tolerated = not refused and fault.cause.failure.rule == but
                    if fault.refused == refused and not tolerated:
                        return _verdict(
                            kind, rewriting, self._of(rewriting, fault.cause)
                        )
        clusters = [(c, r) for r, _ in self.parts for c in r.clusters]
        if any(cluster.cause is None for cluster, _ in clusters):
            return Verdict("sparse")
        if not clusters:
            return self._without_clusters()
        cluster, rewriting = max(clusters, key=lambda pair: pair[0].weights)
        assert cluster.cause is not None
        return _verdict("dense", rewriting, self._of(rewriting, cluster.cause))

    def _without_clusters(self) -> Verdict:
        for rewriting, _ in self.parts:
            for i, node in enumerate(rewriting.nodes):
                failure = rewriting.failures[i]
                if failure is not None and node.weights is not None:
                    return _verdict("dense", rewriting, Cause(failure, i))
        return _told("dense", _NO_WEIGHTS)


def refuse_unsafe(content: bytes) -> SparseCheck:
    """Fails for a file that does not load, or gives wrong outputs, on some target.

    Args:
        content: The bytes of the file.

    Returns:
        What `check` found, if all is well.

    Raises:
        ExportError: naming targets, rule and mend.
    """
    found = check(content)
    bad = {t: v for t, v in found.verdicts.items() if v.kind in ("refused", "wrong")}
    if not bad:
        return found
    kinds = {
        "refused": "it does not load on",
        "wrong": "its outputs are wrong, without a word, on",
    }
    said = [
        f"{words} {', '.join(t for t, v in bad.items() if v.kind == kind)}"
        for kind, words in kinds.items()
        if kind in {v.kind for v in bad.values()}
    ]
    first = next(iter(bad.values()))
    raise ExportError(
        f"such a file of this model is not written: {' and '.join(said)}. "
        f"{first.why} (rule {first.rule!r}); {first.mend}"
    )


def _told(kind: str, failure: Failure, node: str = "") -> Verdict:
    return Verdict(kind, failure.rule, node, failure.reason, failure.mend)


def _verdict(kind: str, rewriting: Rewriting, cause: Cause) -> Verdict:
    name = "" if cause.node is None else rewriting.nodes[cause.node].name
    return _told(kind, cause.failure, name)


def _untaken(graph: Graph, name: str, operator: Any) -> NodeCheck:
    tensors = [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]
    spatial = _is_spatial([graph.shape(i) for i in tensors])
    reason, mend = _UNTAKEN
    node = operator_name(graph, operator)
    failure = Failure("delegated", reason.format(name), mend)
    return _failing(NodeCheck(node, name.lower(), False, False, spatial), failure)


def _failing(row: NodeCheck, failure: Failure) -> NodeCheck:
    return dataclasses.replace(row, holds=False, **dataclasses.asdict(failure))


def _is_spatial(shapes: list[tuple[int, ...]]) -> bool:
    return any(len(s) == 4 and math.prod(s[1:3]) > 1 for s in shapes)
