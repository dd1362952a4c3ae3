"""Through TensorFlow's exporter and converter: a model in, bytes out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from str_keras.export.errors import ExportError
from str_keras.export.plain import PreprocessingLike, Tensor
from str_keras.internals import sublayers

Endpoint = tuple[Callable[[Tensor], Tensor], tf.TensorSpec]


def input_spec(
    model: keras.Model, batch_size: int | None = None, dtype: str | None = None
) -> tf.TensorSpec:
    """Specification "tensors" of the model's input, or "images" of uint8 ones."""
    source = keras.tree.flatten(model.inputs)[0]
    name = "images" if dtype == "uint8" else "tensors"
    return tf.TensorSpec((batch_size, *source.shape[1:]), dtype or source.dtype, name)


def write_saved_model(
    model: keras.Model, endpoints: Mapping[str, Endpoint], directory: Path
) -> None:
    """Writes a SavedModel of the endpoints, each giving `{"logits": outputs}`.

    Args:
        model: Plain and built; its weights are stored once for all endpoints.
        endpoints: By signature name, what computes the model's inputs from the
            signature's one argument, and that argument's specification.
        directory: Where to.

    Raises:
        OSError: if it cannot be written.
    """
    # Not archive.track(model): with Keras 3.15 the weights are then stored twice.
    archive: Any = keras.export.ExportArchive()
    for name, (to_inputs, spec) in endpoints.items():
        archive.add_endpoint(name, _endpoint(model, to_inputs), input_signature=[spec])
    try:
        archive.write_out(str(directory), verbose=False)
    except tf.errors.OpError as error:  # a full disk, for one: no OSError here
        raise OSError(
            f"cannot write the SavedModel: {str(error.message).splitlines()[0]}"
        ) from error


def _endpoint(
    model: keras.Model, to_inputs: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], dict[str, Tensor]]:
    def endpoint(values: Tensor) -> dict[str, Tensor]:
        return {"logits": model(to_inputs(values), training=False)}

    return endpoint


def as_given(values: Tensor) -> Tensor:
    """The step before a model that takes its inputs as they are."""
    return values


def _loops(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Recurrent layers inside whose steps are a loop, not written out."""
    if isinstance(layer, keras.layers.RNN) and not layer.unroll:
        yield layer
    for inner in sublayers(layer):
        yield from _loops(inner)


def refuse_loops(model: keras.Model, weights: str, batch_size: int | None) -> None:
    """Refuses what a recurrent layer's loop cannot be converted to.

    Raises:
        ExportError: for a free batch (the converter refuses its lists) or int8 (under
            TensorFlow 2.21 calibration ends the process by a segmentation fault).
    """
    loop = next(_loops(model), None)
    if loop is None:
        return
    if batch_size is None:
        raise ExportError(
            "a recurrent layer's loop needs a fixed batch: give a `batch_size` "
            "(--batch_size), or build the layer with unroll=True. "
            f"Received: layer={loop.name}"
        )
    if weights == "int8":
        raise ExportError(
            "a recurrent layer's loop cannot be calibrated for int8: build the layer "
            "with unroll=True, or take weights='float16'. "
            f"Received: layer={loop.name}"
        )


def convert(
    model: keras.Model,
    *,
    weights: str,
    encodings: Sequence[bool],
    batch_size: int | None,
    calibration: np.ndarray | None,
    normalize: PreprocessingLike | None,
) -> list[bytes]:
    """Converts a plain float32 model to the bytes of .tflite files.

    Args:
        model: Plain and built.
        weights: "float32", "float16" or "int8".
        encodings: For each file whether its zeros are encoded away.
        batch_size: Fixed, or None: free.
        calibration: What the file will be fed, `[n, ...]`; for int8.
        normalize: What normalizes uint8 pixels inside the file; None: the file takes
            the model's own inputs.

    Raises:
        ExportError: if the converter refuses the model.
    """
    to_inputs = as_given if normalize is None else normalize.normalize
    dtype = None if normalize is None else "uint8"
    spec = input_spec(model, batch_size, dtype)
    with tempfile.TemporaryDirectory() as directory:
        # Not from_concrete_functions: with TensorFlow 2.21 and Keras 3.15 it leaves
        # the variables out of the file, which then gives NaN.
        write_saved_model(model, {"serve": (to_inputs, spec)}, Path(directory))
        feed = None
        if weights == "int8" and calibration is not None:
            feed = _batches(calibration, batch_size or 1)
        return [_convert(directory, weights, sparse, feed) for sparse in encodings]


def _convert(
    directory: str, weights: str, sparse: bool, feed: Callable | None
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(
        directory, signature_keys=["serve"]
    )
    _set_options(converter, weights, sparse)
    if feed is not None:
        converter.representative_dataset = feed
    try:
        return converter.convert()
    except Exception as error:  # converter errors are of many private types
        reason = next((line for line in str(error).splitlines() if line), error)
        raise ExportError(
            f"TensorFlow's converter refused the model: {str(reason)[:300]}"
        ) from error


def _set_options(
    converter: tf.lite.TFLiteConverter, weights: str, sparse: bool
) -> None:
    optimize = tf.lite.Optimize
    converter.optimizations = [] if weights == "float32" else [optimize.DEFAULT]
    if sparse:
        converter.optimizations.append(optimize.EXPERIMENTAL_SPARSITY)
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if weights == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _batches(
    samples: np.ndarray, batch_size: int
) -> Callable[[], Iterator[list[np.ndarray]]]:
    def batches() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(samples), batch_size):
            rows = np.arange(start, start + batch_size) % len(samples)
            yield [samples[rows]]

    return batches
