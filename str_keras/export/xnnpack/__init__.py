"""XNNPACK's sparse inference, told from a file: what runs sparse, dense, or wrong.

XNNPACK turns parts of a graph to NCHW, and multiplies there by the weights that are not
zero alone, where it finds them fit (src/subgraph.c, `xnn_subgraph_rewrite_for_nchw`).
Whether it does, and whether what comes out is right, follows from the file and the CPU.
"""

from str_keras.export.xnnpack.results import (
    TARGETS,
    ClusterCheck,
    NodeCheck,
    SparseCheck,
    Verdict,
)
from str_keras.export.xnnpack.verdict import check, refuse_unsafe

__all__ = [
    "TARGETS",
    "ClusterCheck",
    "NodeCheck",
    "SparseCheck",
    "Verdict",
    "check",
    "refuse_unsafe",
]
