"""What `tools/convert_onnx.py` and `tools/convert_openvino.py` do."""

from __future__ import annotations

from collections.abc import Callable

from str_keras.checkpoint import load_model
from str_keras.cli import UserError
from str_keras.export.commands import load_images
from str_keras.export.plain import plain_model
from str_keras.export.report import FormatReport, report_table
from str_keras.startup import stderr_aside


def convert_format(
    export: Callable[..., FormatReport],
    model: str,
    output: str,
    *,
    dataset: str,
    data_dir: str | None,
    num_images: int,
    overwrite: bool,
) -> int:
    """Writes a model by `onnx` or `openvino`; prints its table.

    Args:
        export: `str_keras.export.onnx` or `openvino`.
        model: Path of a .keras file.
        output: Path of the file, as of `export`.
        dataset: As of `commands.load_images`.
        data_dir: As of `commands.load_images`.
        num_images: As of `commands.load_images`.
        overwrite: As of `export`.

    Returns:
        The exit status, 0.

    Raises:
        UserError: if the packages of the extra are not installed.
        ValueError: for a bad argument or a file that was not written.
        OSError: if a file cannot be read or written.
    """
    loaded = plain_model(load_model(model))
    arguments = load_images(model, dataset, data_dir, num_images, loaded)
    arguments.pop("calibration", None)
    try:
        with stderr_aside():
            report = export(loaded, output, overwrite=overwrite, **arguments)
    except ModuleNotFoundError as error:
        raise UserError(str(error)) from error
    print(report_table([report]))
    return 0
