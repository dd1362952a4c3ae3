"""Loads what was written, runs it on LiteRT and compares it with Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from str_keras.export.errors import ExportError
from str_keras.export.flatbuffer import StoredKernel

# Largest max|difference| / max|y|. Measured: float32 up to 3e-7; float16 1e-3 to 4e-3
# on 256 images of a trained network of 28 layers, but up to 9e-3 where the extreme of
# 2,000 images counts: rounding the weights does that much. int8_weights 4e-2 to 7e-2
# over 256 and 2,000 images of that network, the same top-1 on 99.2 % and more.
TOLERANCES = {"float32": 1e-4, "float16": 5e-3, "int8_weights": 1e-1}
# int8 changes outputs for good reasons, so only what is broken fails: an error as large
# as the largest output (zeros have it), or the network's choice kept on fewer than half
# of the images; calibrated networks keep it on nine of ten and more.
INT8_DIFFERENCE = 1.0
INT8_AGREEMENT = 0.5

_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Outputs of a file beside those of Keras, on the same inputs.

    Attributes:
        difference: max|file - Keras| / max|Keras|.
        agreement: Share of inputs with the same largest output; None if there is but
            one output.
        constant: Whether the file gives the same outputs for all inputs, where Keras'
            vary by more than a tenth of the largest.
    """

    difference: float
    agreement: float | None
    constant: bool


def compare(outputs: np.ndarray, reference: np.ndarray) -> Comparison:
    """Compares outputs `[n, ..., classes]` with those of Keras.

    Raises:
        ExportError: if the shapes differ or an output is not finite where Keras' is.
    """
    if outputs.shape != reference.shape:
        raise ExportError(
            f"the written model's outputs have another shape than Keras': "
            f"{outputs.shape} and {reference.shape}; it was deleted"
        )
    if not np.isfinite(reference).all():
        raise ExportError("Keras' own outputs are not finite; nothing was written")
    if not np.isfinite(outputs).all():
        raise ExportError("the written model's outputs are not finite: deleted")
    # In float64: the difference of two float32 is rounded again.
    exact = reference.astype("float64")
    largest = np.abs(exact).max()
    error = np.abs(outputs - exact).max()
    difference = float(error / largest) if largest else (0.0 if not error else np.inf)
    agreement = None
    if reference.shape[-1] > 1:
        agreement = float(np.mean(outputs.argmax(-1) == reference.argmax(-1)))
    # An untrained network's answers to noise differ by less than a step of int8.
    varies = np.ptp(exact, axis=0).max() > 0.1 * largest
    constant = varies and not np.ptp(outputs, axis=0).any()
    return Comparison(difference, agreement, bool(constant))


def check(comparison: Comparison, weights: str, tolerance: float | None = None) -> None:
    """Fails if a comparison is worse than the weights' format explains.

    Args:
        comparison: Of the written file with Keras.
        weights: "float32", "float16", "int8" or "int8_weights".
        tolerance: Instead of `TOLERANCES`, for all but int8.

    Raises:
        ExportError: saying by how much.
    """
    if weights in TOLERANCES:
        bound = TOLERANCES[weights] if tolerance is None else tolerance
        failed = comparison.difference > bound
        told = f"max|difference| / max|y| is {comparison.difference:.2g}, above {bound}"
        if failed and weights != "float32" and comparison.agreement is not None:
            told += (
                f" (the same top-1 on {comparison.agreement:.2%}; if that is enough, "
                "raise `tolerance`)"
            )
    elif comparison.constant:
        failed, told = True, "it gives the same outputs for all images"
    elif comparison.difference >= INT8_DIFFERENCE:
        failed = True
        told = f"the error is {comparison.difference:.2g} times the largest output"
    else:
        share = comparison.agreement
        failed = share is not None and share < INT8_AGREEMENT
        told = f"it chooses as Keras does on {share or 0:.0%} of the images only"
    if failed:
        raise ExportError(f"the {weights} model differs from Keras': {told}; deleted")


class TFLiteRunner:
    """A .tflite file under LiteRT's default delegate, loaded once.

    Args:
        path: The file.

    Raises:
        ExportError: if the file does not load.
    """

    def __init__(self, path: Path):
        try:
            self._interpreter = Interpreter(model_path=str(path))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _not_running(error) from error
        self._input = self._interpreter.get_input_details()[0]
        self.dtype: np.dtype = np.dtype(self._input["dtype"])
        self.batch = int(self._input["shape_signature"][0])

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Runs inputs `[n, ...]` of the file's dtype; returns outputs `[n, ...]`.

        A file of fixed batch gets batches of that size, the last one filled up; one of
        free batch gets a single input and then the rest by 32.

        Raises:
            ExportError: if the file does not run.
        """
        try:
            rows = _rows(len(inputs), self.batch)
            outputs = [self._run(inputs[row]) for row in rows]
        except (ValueError, RuntimeError) as error:
            raise _not_running(error) from error
        return np.concatenate(outputs)[: len(inputs)]

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        interpreter = self._interpreter
        if len(inputs) != interpreter.get_input_details()[0]["shape"][0]:
            interpreter.resize_tensor_input(self._input["index"], inputs.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(self._input["index"], inputs)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _not_running(error: Exception) -> ExportError:
    reason = " ".join(str(error).split())[:300]
    return ExportError(f"the file does not run in LiteRT: {reason}")


def run_tflite(path: Path, inputs: np.ndarray) -> np.ndarray:
    """Loads a .tflite file and runs inputs, see `TFLiteRunner`."""
    return TFLiteRunner(path)(inputs)


def _rows(count: int, batch: int) -> Iterator[np.ndarray]:
    if batch < 1:
        yield np.arange(1)
    step, start = (_CHUNK, 1) if batch < 1 else (batch, 0)
    for first in range(start, count, step):
        last = first + step if batch > 0 else min(first + step, count)
        yield np.arange(first, last) % count


def check_zeros(stored: list[StoredKernel], kernels: list[tuple[int, int]]) -> None:
    """Fails if a kernel has fewer zeros in the file than in Keras.

    Folding a batch normalization into a kernel, rounding to 16 or 8 bits and another
    layout keep every zero. A layer that is used twice may be stored twice.

    Args:
        stored: Kernels of the file.
        kernels: `(elements, non-zeros)` of the model's; the two are matched by size.

    Raises:
        ExportError: naming the kernel.
    """
    if not stored and kernels:
        raise ExportError("the written file holds none of the kernels; deleted")
    for size in {kernel.size for kernel in stored}:
        in_file = [k.nonzeros for k in stored if k.size == size]
        in_model = [nonzeros for n, nonzeros in kernels if n == size]
        if not in_model:
            continue  # a constant of the model's own, no kernel
        if len(in_file) > len(in_model):
            in_file, in_model = [max(in_file)], [max(in_model)]
        if sum(in_file) > sum(in_model):
            name = next(k.name for k in stored if k.size == size)
            raise ExportError(
                f"zeros were lost: the kernels of {size} elements ({name}, ...) have "
                f"{sum(in_file)} non-zeros in the file and {sum(in_model)} in Keras; "
                "the file was deleted"
            )
