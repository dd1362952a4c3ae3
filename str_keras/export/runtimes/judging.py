"""What came of a file on a runtime: right or wrong, sparse or not."""

from __future__ import annotations

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from str_keras.export.flatbuffer import count_operators, read_graphs, read_kernels
from str_keras.export.runtimes.comparing import (
    distance,
    fault,
    tolerance_for,
)
from str_keras.export.runtimes.outcome import (
    Outcome,
    sparse_kernels_by_work,
    work_ratio,
)
from str_keras.export.runtimes.report import RuntimeRow


def weights_of(content: bytes) -> str:
    """The coarsest kind of a file's kernels.

    Args:
        content: The bytes of a .tflite file.

    Returns:
        "float32", "float16", "int8" where activations are int8 too, or "int8_weights"
        where they are float.
    """
    dtypes = {kernel.dtype for kernel in read_kernels(content)}
    if "int8" not in dtypes:
        return "float16" if "float16" in dtypes else "float32"
    computed = any(
        graph.tensors[index].type == TensorType.INT8 and graph.stored(index) is None
        for graph in read_graphs(content)
        for index in graph.producers
    )
    return "int8" if computed else "int8_weights"


class Judge:
    """Makes a row of what came of the file on a runtime.

    Args:
        content: The bytes of the file.
        keras_outputs: Keras' for the samples, under any name; empty without a model.
        native: The file's own on this CPU by name; empty if it was not run there.
        tolerance: As of `verify_runtimes`.

    Attributes:
        weights: As of `weights_of`.
        reference_name: "Keras" or "native".
        tolerance: Largest difference to the reference.
    """

    def __init__(
        self,
        content: bytes,
        keras_outputs: dict[str, np.ndarray],
        native: dict[str, np.ndarray],
        tolerance: float | None,
    ):
        self.weights = weights_of(content)
        self.reference_name = "Keras" if keras_outputs else "native"
        self.tolerance = tolerance_for(self.weights, self.reference_name)
        self._between = tolerance_for(self.weights, "native")
        if tolerance is not None:
            self.tolerance = self._between = tolerance
        self._native = native
        self._reference = keras_outputs or native
        self._is_sparse = count_operators(content, "DENSIFY") > 0

    def row(self, outcome: Outcome, twin: Outcome | None) -> RuntimeRow:
        """The row of an outcome and, where it was run beside it, the dense twin's."""
        if outcome.error:
            return RuntimeRow(outcome.runtime, error=outcome.error)
        found = distance(outcome.heads, self._reference)
        between = distance(outcome.heads, self._native)
        wrong = fault(found, self.weights, self.reference_name, self.tolerance)
        wrong = wrong or fault(between, self.weights, "native", self._between)
        kernels, evidence = self._sparse_kernels(outcome, twin, bool(wrong))
        return RuntimeRow(
            runtime=outcome.runtime,
            fault=wrong,
            difference=found.difference,
            from_native=between.difference,
            agreement=found.agreement,
            sparse_kernels=kernels,
            evidence=evidence,
            seconds=outcome.median_seconds,
            instructions=outcome.instructions,
            work_ratio=None if twin is None else work_ratio(twin, outcome),
        )

    def _sparse_kernels(
        self, outcome: Outcome, twin: Outcome | None, is_wrong: bool
    ) -> tuple[bool | None, str]:
        """Whether they ran, and how that is known."""
        if not self._is_sparse:
            return False, "no kernel is stored sparse"
        if outcome.operators is not None:
            return outcome.sparse_kernels, "by LiteRT's profile"
        if twin is None:
            return None, f"{outcome.note}, and there is no dense twin to compare with"
        ratio = work_ratio(twin, outcome)
        if ratio is None:
            reason = f"does not run: {twin.error}" if twin.error else "was not timed"
            return None, f"{outcome.note}, and its dense twin {reason}"
        if is_wrong:
            return None, "wrong outputs may come of less work than right ones"
        kernels = sparse_kernels_by_work(twin, outcome)
        told = f"by its dense twin, of {ratio:.2f} times the work"
        return kernels, told if kernels is not None else f"unclear {told}"
