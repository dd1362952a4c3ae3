"""Which nodes of a partition XNNPACK turns to NCHW.

Source, as of August 2026: XNNPACK, src/subgraph.c, `xnn_subgraph_rewrite_for_nchw`,
step by step.
"""

from __future__ import annotations

import collections
import dataclasses

from str_keras.export.xnnpack.nodes import Subgraph
from str_keras.export.xnnpack.rules import Failure, Role, classify

_ENTRY = Failure(
    "entry",
    "it reads what comes from outside, not from a 3x3 convolution of stride 2",
    "begin with a 3x3 convolution of stride 2 on 3 channels, padded by 1 on every side",
)
_END = Failure(
    "end",
    "no mean over height and width, and no depth-to-space, ends a run of nodes",
    "end in GlobalAveragePooling2D",
)
_STORED = Failure(
    "storage",
    "no kernel is stored sparse, and only that switches sparse kernels on",
    "export with sparse=True",
)
_SHARED = Failure(
    "shared",
    "its output is read inside of the sparse part and outside, or is an output of it",
    "let values of the sparse part be read there alone, or store the file dense "
    "(sparse=False)",
)
_TWICE = Failure(
    "twice",
    "it reads one value twice, which XNNPACK counts as read outside too",
    "multiply by 2 instead",
)


@dataclasses.dataclass(frozen=True)
class Cause:
    """Why a cluster is not turned.

    Attributes:
        failure: The rule.
        node: Index of the node that breaks it; None if none does.
    """

    failure: Failure
    node: int | None = None


@dataclasses.dataclass
class Cluster:
    """Nodes that are turned to NCHW together, or could be.

    Attributes:
        nodes: Their indices.
        weights, zeros: Of its 1x1 convolutions and fully connected nodes.
        cause: Why it is not turned; None if it is.
    """

    nodes: list[int]
    weights: int
    zeros: int
    cause: Cause | None


class Rewriting:
    """What XNNPACK makes of a subgraph, on a CPU with sparse kernels.

    Args:
        subgraph: The nodes.

    Attributes:
        roles, failures: Of each node by itself.
        nchw: Values that are held in NCHW.
        clusters: Connected nodes of fitting roles that have weights to count.
    """

    def __init__(self, subgraph: Subgraph):
        self.subgraph, self.nodes = subgraph, subgraph.nodes
        answers = [classify(node, subgraph) for node in self.nodes]
        self.roles = [role for role, _ in answers]
        self.failures = [failure for _, failure in answers]
        self._roles = list(self.roles)  # a mean that more nodes follow stops to end
        self._leaders = list(range(len(self.nodes)))
        self._off: dict[int, Cause] = {}
        self.nchw: set[int] = set()
        self._fallback = Cause(_END)
        self._replay()
        self.clusters = self._clusters()

    def _replay(self) -> None:
        ends = [i for i in self._range() if self._roles[i] & Role.LEAVES]
        news = [i for i in ends if self._visit(i)]
        self._fallback = next(
            (self._off[i] for i in ends if i in self._off), Cause(_END)
        )
        may_turn = bool(news) and self.subgraph.partition.hinted
        inside = Role.INSIDE | Role.LEAVES
        while news:
            fit = [i for i in self._range() if self._roles[i] & inside]
            news = [i for i in fit if i not in self._off and self._visit(i)]
        for i in self._range():
            if i in self._off:
                self._off.setdefault(self._leaders[i], self._off[i])
        self._turn_off_shared()
        if may_turn:
            for leader, members in self._members().items():
                weights, zeros = self._count(members)
                if 3 * zeros > 2 * weights:
                    self.nchw |= {i for k in members for i in self._reads(k)}
                else:
                    self._off.setdefault(leader, self._too_few(weights, zeros))

    def _range(self) -> range:
        return range(len(self.nodes))

    def _reads(self, index: int) -> list[int]:
        return self.subgraph.computed(self.nodes[index])

    def _visit(self, index: int) -> bool:
        """Unites a node with the producers of its inputs; whether that is news."""
        news = False
        for tensor in self._reads(index):
            producer = self.subgraph.producers.get(tensor)
            if self.subgraph.is_external(tensor) or producer is None:
                cause = Cause(_ENTRY, index)
                if producer is not None:
                    cause = Cause(_SHARED, producer)
                self._off.setdefault(index, cause)
                continue
            fits = bool(self.roles[producer] & (Role.INSIDE | Role.ENTERS))
            if not fits or producer in self._off:
                self._off.setdefault(index, self._why_not(producer, index))
                continue
            self._roles[producer] &= ~Role.LEAVES
            leaders = self._leaders
            if leaders[producer] != leaders[index]:
                leader = max(leaders[producer], leaders[index])
                leaders[producer] = leaders[index] = leader
                news = True
        return news

    def _why_not(self, producer: int, index: int) -> Cause:
        if producer in self._off:
            return self._off[producer]
        failure = self.failures[producer]
        return Cause(_ENTRY, index) if failure is None else Cause(failure, producer)

    def _is_in(self, index: int) -> bool:
        fits = self._roles[index] & (Role.INSIDE | Role.LEAVES)
        return bool(fits) and self._leaders[index] not in self._off

    def _turn_off_shared(self) -> None:
        """Turns clusters off whose values are read outside too."""
        inside = collections.Counter(
            tensor for i in self._range() if self._is_in(i) for tensor in self._reads(i)
        )
        for i in [i for i in self._range() if self._is_in(i)]:
            for tensor in self._reads(i):
                readers = len(self.subgraph.readers(tensor))
                if inside[tensor] != readers:
                    producer = self.subgraph.producers.get(tensor)
                    cause = Cause(_ENTRY, i)  # of the input itself
                    if producer is not None:
                        cause = Cause(_SHARED, producer)
                    if inside[tensor] > readers:
                        cause = Cause(_TWICE, i)
                    self._off.setdefault(self._leaders[i], cause)

    def _members(self) -> dict[int, list[int]]:
        members: dict[int, list[int]] = {}
        for i in self._range():
            if self._is_in(i):
                members.setdefault(self._leaders[i], []).append(i)
        return members

    def _count(self, members: list[int]) -> tuple[int, int]:
        nodes = [self.nodes[i] for i in members]
        kernels = [n.weights for n in nodes if n.kind == "fully_connected"]
        return (
            sum(k.size for k in kernels if k is not None),
            sum(k.zeros for k in kernels if k is not None),
        )

    @staticmethod
    def _too_few(weights: int, zeros: int) -> Cause:
        return Cause(
            Failure(
                "zeros",
                f"{zeros:,} of {weights:,} weights of the 1x1 convolutions are zero, "
                "not more than two thirds",
                "prune more of them",
            )
        )

    def cause_of(self, index: int) -> Cause | None:
        """Why the cluster of a node is off; None if it is not."""
        return self._off.get(index) or self._off.get(self._leaders[index])

    def is_turned(self, index: int) -> bool:
        """Whether a node reads or gives NCHW."""
        node = self.nodes[index]
        return not self.nchw.isdisjoint((*node.inputs, *node.outputs))

    def _clusters(self) -> list[Cluster]:
        leaders = list(self._range())
        for i in self._range():  # producers come first, so one pass each way will do
            if not self.roles[i] & (Role.INSIDE | Role.LEAVES):
                continue
            for tensor in self._reads(i):
                producer = self.subgraph.producers.get(tensor)
                if producer is not None and self.roles[producer] & ~Role.LEAVES:
                    old, new = leaders[producer], leaders[i]
                    leaders = [new if leader == old else leader for leader in leaders]
        members: dict[int, list[int]] = {}
        for i in self._range():
            if self.roles[i]:
                members.setdefault(leaders[i], []).append(i)
        found = []
        for nodes in members.values():
            weights, zeros = self._count(nodes)
            of_images = any(self._has_4_dimensions(i) for i in nodes)
            if weights and of_images:
                found.append(Cluster(nodes, weights, zeros, self._cause_of(nodes)))
        return found

    def _has_4_dimensions(self, index: int) -> bool:
        node, shape = self.nodes[index], self.subgraph.shape
        return any(len(shape(i)) == 4 for i in (*node.inputs, *node.outputs))

    def _cause_of(self, nodes: list[int]) -> Cause | None:
        if any(self.nchw.intersection(self._reads(i)) for i in nodes):
            return None
        if not self.subgraph.partition.hinted:
            return Cause(_STORED)
        own = (self._off[i] for i in nodes if i in self._off)
        led = (
            self._off[self._leaders[i]] for i in nodes if self._leaders[i] in self._off
        )
        return next(own, None) or next(led, None) or self._fallback
