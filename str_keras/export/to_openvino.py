"""A trained model as OpenVINO's .xml and .bin, loaded, run and compared."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from str_keras.export import targets, verify
from str_keras.export.convert import input_spec
from str_keras.export.errors import ExportError
from str_keras.export.extras import require
from str_keras.export.flatbuffer import StoredKernel
from str_keras.export.other_formats import INPUT, KEY, OUTPUT, Job, prepare, refused
from str_keras.export.plain import PreprocessingLike
from str_keras.export.report import FormatReport
from str_keras.files import claim_file

# Where the operators that multiply by weights hold them.
_KERNEL_OPERANDS = {
    "Convolution": (1,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolution": (1,),
    "GroupConvolutionBackpropData": (1,),
    "MatMul": (0, 1),
    "Gather": (0,),
}
# Operators between a stored kernel and its use.
_LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze")
_PRECISION = "INFERENCE_PRECISION_HINT"
# Inputs that are enough to say what rounding does.
_LOOKED_AT = 32


def openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: PreprocessingLike | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> FormatReport:
    """Writes OpenVINO's .xml and .bin, or nothing: they are loaded, run and compared.

    The model takes Keras' inputs, float32 "tensors" `[?, ...]`, and gives "logits"; the
    batch is free. `get_rt_info("str_keras")` of the loaded model is JSON of labels,
    preprocessing and versions. Zeros are stored as any number: a sparse model makes
    the files no smaller, but they compress (`gzip_bytes`).

    It is compiled for the CPU with `{"INFERENCE_PRECISION_HINT": "f32"}` and compared.
    Without that hint OpenVINO computes in bfloat16 on processors that have it; then the
    report's note says by how much that changes the outputs.

    Needs `pip install 'str_keras[openvino]'`. Its converter tells Intel that it was
    used, unless the environment has CI=true or `opt_in_out --opt_out` was run once.

    Args:
        model: Built Keras model of one input and one output; thresholds are stripped
            and 16-bit policies turned to float32, in a copy. Recurrent layers need
            `unroll=True`.
        path: Ends in .xml; the weights are beside it in .bin.
        images: What is run, `[n, H, W, C]`: with `preprocessing` raw uint8 pixels of
            the model's size, without it the model's own inputs. None takes eight
            random inputs, and the report says so.
        labels: Class numbers `[n]` of the images, for the accuracy.
        class_names: One name an output, for `rt_info`.
        preprocessing: Such as `str_keras.data.Preprocessing`.
        tolerance: Largest max|difference| / max|y|; None: 1e-4.
        overwrite: Whether files at `path` may be replaced.

    Returns:
        Sizes, counts and differences.

    Raises:
        ExportError: for a model that OpenVINO refuses, or files that do not load,
            differ or lost zeros.
        ModuleNotFoundError: if the extra is not installed.
        ValueError: for a bad argument.
        OSError: if a path exists or cannot be written.
    """
    if Path(path).suffix != ".xml":
        raise ValueError(f"`path` must end in .xml. Received: path={str(path)!r}")
    (package,) = require("openvino", "openvino")
    job = prepare(model, images, labels, class_names, preprocessing, tolerance)
    target = claim_file(path, overwrite)
    claim_file(target.with_suffix(".bin"), overwrite)
    with _pair_aside(target) as (xml, weights):
        _write(job, xml)
        checked, note = _verify(package.Core(), xml, job, tolerance)
        contents = xml.read_bytes(), weights.read_bytes()
    return FormatReport(
        path=str(target),
        format="OpenVINO",
        bytes=sum(len(content) for content in contents),
        gzip_bytes=sum(targets.gzip_bytes(content) for content in contents),
        note=note,
        **checked,
    )


@contextlib.contextmanager
def _pair_aside(target: Path) -> Iterator[tuple[Path, Path]]:
    """Yields paths of an .xml and its .bin beside `target`; moves both at the end.

    The old .xml goes first and the new one comes last, so that no .xml ever stands
    beside the weights of another.
    """
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.stem}."
    ) as directory:
        xml = Path(directory, target.name)
        weights = xml.with_suffix(".bin")
        yield xml, weights
        target.unlink(missing_ok=True)
        weights.replace(target.with_suffix(".bin"))
        xml.replace(target)


def _write(job: Job, path: Path) -> None:
    (package,) = require("openvino", "openvino")
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory, "model.xml"))
        specification: Any = [input_spec(job.model)]
        try:
            job.model.export(
                file, format="openvino", verbose=False, input_signature=specification
            )
        except Exception as error:  # OpenVINO's own types and RuntimeError
            raise refused("OpenVINO", error) from error
        converted = package.Core().read_model(file)
        converted.inputs[0].get_tensor().set_names({INPUT})
        converted.outputs[0].get_tensor().set_names({OUTPUT})
        converted.set_rt_info(job.description, [KEY])
        try:
            package.serialize(converted, str(path))
        except RuntimeError as error:  # a full disk, for one: no OSError here
            raise OSError(f"cannot write {path}: {error}") from error


def _verify(
    core: Any, path: Path, job: Job, tolerance: float | None
) -> tuple[dict[str, Any], str]:
    try:
        converted = core.read_model(str(path))
        compiled = core.compile_model(converted, "CPU", {_PRECISION: "f32"})
        default = core.compile_model(converted, "CPU")
        checked = job.compare(
            lambda inputs: compiled({INPUT: inputs})[OUTPUT],
            read_kernels(converted),
            tolerance,
        )
        outputs = default({INPUT: job.samples.tensors[:_LOOKED_AT]})[OUTPUT]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"the files do not run in OpenVINO: {reason}") from error
    precision = default.get_property(_PRECISION).to_string()
    if precision == "f32":
        return checked, ""
    rounded = verify.compare(outputs, job.reference[:_LOOKED_AT])
    note = (
        f"compiled without a hint it computes in {precision} on this CPU, "
        f"{rounded.difference:.1e} from Keras: compile it with "
        f'{{"{_PRECISION}": "f32"}} for float32'
    )
    return checked, note


def read_kernels(model: Any) -> list[StoredKernel]:
    """The kernels of an `openvino.Model`, each stored one once."""
    stored = {}
    for node in model.get_ordered_ops():
        for position in _KERNEL_OPERANDS.get(node.get_type_name(), ()):
            source = node.input_value(position).get_node()
            while source.get_type_name() in _LAYOUT:
                source = source.input_value(0).get_node()
            if source.get_type_name() != "Constant":
                continue
            values, name = source.get_data(), source.get_friendly_name()
            if values.ndim > 1 and np.issubdtype(values.dtype, np.floating):
                nonzeros = int(np.count_nonzero(values))
                stored[name] = StoredKernel(
                    name, values.size, nonzeros, values.dtype.name, sparse=False
                )
    return list(stored.values())
