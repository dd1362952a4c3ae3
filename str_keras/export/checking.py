"""Whether sparse kernels will run on a model's file, before any device has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from str_keras.export.xnnpack import SparseCheck, check

if TYPE_CHECKING:
    import keras


def check_sparse(model: str | os.PathLike[str] | keras.Model) -> SparseCheck:
    """Checks every rule of XNNPACK's sparse inference, node by node; runs nothing.

    Sparse kernels switch on by themselves on Arm, in WebAssembly and on x86 without
    AVX, where the graph and its zeros fit. Where a rule fails the file may run dense,
    but also fail to load, or give wrong outputs without a word; x86 with AVX, where
    models are built, shows none of it.

    Args:
        model: Path of a .tflite file, which is checked as it is; or a Keras model, or
            the path of a .keras file, whose float32 file is made in memory as
            `tflite(..., sparse=True)` would write it: thresholds stripped, kernels
            stored sparse, the graph rewritten (see `rewrite.make_ready`). A .tflite
            needs no TensorFlow.

    Returns:
        Nodes, clusters and a verdict for each target; `str` of it is a table.

    Raises:
        ExportError: if TensorFlow's converter refuses the model.
        TypeError: for something else.
        ValueError: for bytes that are no TensorFlow Lite flatbuffer, or a model that
            export does not take.
        OSError: if the file cannot be read.
    """
    if not isinstance(model, str | os.PathLike):
        return _check_model(model)
    path = Path(model)
    if path.suffix == ".keras":
        from str_keras.checkpoint import load_model

        return _check_model(load_model(str(path)))
    return check(path.read_bytes())


def _check_model(model: keras.Model) -> SparseCheck:
    from str_keras.export.convert import convert, refuse_loops
    from str_keras.export.kinds import Kind, encode
    from str_keras.export.plain import plain_model

    plain = plain_model(model)
    refuse_loops(plain, "float32", batch_size=1)
    (dense,) = convert(
        plain,
        weights="float32",
        encodings=(False,),
        batch_size=1,
        calibration=None,
        normalize=None,
    )
    encoded = encode(dense, Kind("float32", sparse=True))
    # Of few zeros none is stored sparse; the other rules are checked none the less.
    return check(encoded.content, assume_stored=True)
