"""What `tools/import_torch.py` does."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import keras

from str_keras import budget, checkpoint
from str_keras.files import claim_file, written_aside
from str_keras.model import find_thresholded
from str_keras.stripping import strip as strip_model
from str_keras.torch_checkpoints.conversion import load, save


def figures(model: keras.Model) -> str:
    """Returns sparsity and MACs of all kernels as text: the paper's own counts.

    Args:
        model: Any model of `stk.models`, with thresholds or without.
    """
    total = budget.summary(model).kernels
    thresholds = sum(1 for _ in find_thresholded(model))
    lines = [
        ("model", f"{model.name}, {model.output_shape[-1]} classes"),
        ("thresholds", f"{thresholds}" if thresholds else "none: a plain model"),
        ("kernel weights", f"{total.params:,}"),
        ("non-zeros", f"{total.nonzeros:,}"),
        ("sparsity", f"{100 * total.sparsity:.2f} %"),
    ]
    if total.macs is not None and total.sparse_macs is not None:
        size = "x".join(map(str, model.input_shape[1:3]))
        lines += [
            ("MACs", f"{total.sparse_macs / 1e6:,.2f}M at {size}"),
            ("MACs if dense", f"{total.macs / 1e6:,.2f}M"),
        ]
    return "\n".join(f"{name:<15} {value}" for name, value in lines)


def convert(
    input: str,
    output: str = "",
    to_torch: str = "",
    *,
    architecture: str = "",
    strip: bool = False,
    dense_layers: Collection[str] = (),
    stem: str = "imagenet",
    image_size: int = 0,
    data_parallel: bool = False,
    overwrite: bool = False,
) -> None:
    """What `tools/import_torch.py` does: reads either kind, prints, writes either.

    Args:
        input: A .keras file of ours, or a checkpoint of the authors' code.
        output: The .keras file to write, if any.
        to_torch: The .pth to write, if any.
        architecture: As of `load`; for a checkpoint of theirs.
        strip: Whether to write the model without thresholds.
        dense_layers: As of `load`; for a checkpoint of theirs.
        stem: As of `load`; for a checkpoint of theirs.
        image_size: As of `load`, 0 for the default; for a checkpoint of theirs.
        data_parallel: As of `save`.
        overwrite: Whether to replace files.

    Raises:
        ModuleNotFoundError: if PyTorch is not installed, or too old to be safe.
        ValueError: as `load` and `save`, and for arguments that do not fit.
        OSError: if a file is missing, exists, or cannot be written.
    """
    if not output and not to_torch:
        raise ValueError(
            "nothing to write: name --output=MODEL.keras or --to_torch=FILE.pth. "
            f"Received: --input={input}"
        )
    _claim(input, output, to_torch, overwrite)
    if input.endswith(".keras"):
        if architecture or dense_layers or image_size or stem != "imagenet":
            raise ValueError(
                "--architecture, --dense_layers, --stem and --image_size are for "
                f"checkpoints of PyTorch. Received: --input={input}"
            )
        model = checkpoint.load_model(input)
        model = strip_model(model) if strip else model
    else:
        model = load(
            input,
            architecture or None,
            strip=strip,
            dense_layers=dense_layers,
            stem=stem,
            image_size=image_size or None,
        )
    print(figures(model))
    if output:
        with written_aside(output) as aside:
            model.save(aside)
        print(f"written to {output}")
    if to_torch:
        save(model, to_torch, data_parallel)
        print(f"written to {to_torch}")


def _claim(input: str, output: str, to_torch: str, overwrite: bool) -> None:
    """Raises, before the work, for files that are not to be written."""
    if output and not output.endswith(".keras"):
        raise ValueError(
            f"the file of a Keras model ends in .keras. Received: --output={output}"
        )
    if to_torch.endswith(".keras"):
        raise ValueError(
            f"a checkpoint of PyTorch is no .keras. Received: --to_torch={to_torch}"
        )
    for path in filter(None, (output, to_torch)):
        if Path(path).resolve() == Path(input).resolve():
            raise ValueError(f"input and output are one file. Received: {path}")
        claim_file(path, overwrite)
