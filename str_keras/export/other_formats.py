"""What the exports to ONNX and OpenVINO share: before the conversion and after it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from str_keras.export import verify
from str_keras.export.errors import ExportError
from str_keras.export.flatbuffer import StoredKernel
from str_keras.export.inputs import (
    Samples,
    check_class_names,
    check_labels,
    make_samples,
)
from str_keras.export.plain import (
    PreprocessingLike,
    kernel_counts,
    plain_model,
    predict,
)

# Names of the one input and the one output, as in a .tflite and a SavedModel of ours.
INPUT, OUTPUT = "tensors", "logits"
# Where a file keeps what `Job.description` tells.
KEY = "str_keras"

_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Job:
    """A model to write, and what its file must give.

    Attributes:
        model: Plain, float32 and called.
        samples: What both are run on.
        labels: Class numbers `[n]`, or None.
        reference: Keras' outputs `[n, ...]`.
        description: JSON text of labels, preprocessing and versions, for the file.
    """

    model: keras.Model
    samples: Samples
    labels: np.ndarray | None
    reference: np.ndarray
    description: str

    def compare(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        stored: list[StoredKernel],
        tolerance: float | None,
    ) -> dict[str, Any]:
        """Runs what was written and compares it with Keras.

        Args:
            run: Gives the outputs of a batch of inputs, of any size.
            stored: The kernels of the file.
            tolerance: As of `verify.check`.

        Returns:
            The fields of a `FormatReport` that tell of it.

        Raises:
            ExportError: if outputs differ or zeros were lost.
        """
        outputs = _run_batches(run, self.samples.tensors)
        comparison = verify.compare(outputs, self.reference)
        verify.check(comparison, "float32", tolerance)
        kernels = kernel_counts(self.model)
        verify.check_zeros(stored, kernels)
        return {
            "params": sum(kernel.size for kernel in stored),
            "nonzeros": sum(kernel.nonzeros for kernel in stored),
            "model_nonzeros": sum(nonzeros for _, nonzeros in kernels),
            "difference": comparison.difference,
            "agreement": comparison.agreement,
            "top1": self._accuracy(outputs),
            "model_top1": self._accuracy(self.reference),
            "verified_on": len(self.reference),
            "verified_with": self.samples.source,
        }

    def _accuracy(self, outputs: np.ndarray) -> float | None:
        if self.labels is None:
            return None
        return float(np.mean(outputs.argmax(-1) == self.labels))


def prepare(
    model: keras.Model,
    images: np.ndarray | None,
    labels: np.ndarray | None,
    class_names: Sequence[str] | None,
    preprocessing: PreprocessingLike | None,
    tolerance: float | None,
) -> Job:
    """Strips the model, checks the arguments and computes what Keras gives.

    Raises:
        TypeError: if it is no Keras model.
        ValueError: for a bad argument.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"`tolerance` must be in [0, 1). Received: {tolerance=}")
    plain = plain_model(model)
    labels = check_labels(labels, images, plain)
    class_names = check_class_names(class_names, plain)
    samples = make_samples(plain, images, preprocessing)
    described = {
        "labels": class_names,
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
    }
    # Keras exports a model that load_model gave only once it was called: here it is.
    reference = predict(plain, samples.tensors)
    return Job(plain, samples, labels, reference, json.dumps(described))


def refused(converter: str, error: Exception) -> ExportError:
    """The exception for what a converter raised, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Where the first line only says that something failed, a later one says what.
    telling = [line for line in lines if "No conversion rule" in line] or lines
    reason = telling[0] if telling else type(error).__name__
    # The lists are those of a recurrent layer's loop.
    hint = " (a recurrent layer may need unroll=True)" if "TensorList" in reason else ""
    return ExportError(f"{converter} refused the model: {reason[:300]}{hint}")


def _run_batches(
    run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray
) -> np.ndarray:
    """One input first and then the rest by 32: the batch must be free."""
    rows = [slice(0, 1)]
    rows += [slice(i, i + _CHUNK) for i in range(1, len(inputs), _CHUNK)]
    return np.concatenate([run(inputs[row]) for row in rows])
