"""Turns a checkpoint of the authors' PyTorch code into a .keras model, and back.

python tools/import_torch.py --input=model_best.pth --output=resnet50.keras
python tools/import_torch.py --input=model_best.pth --output=plain.keras --strip
python tools/import_torch.py --input=run/best.keras --to_torch=model.pth

Prints sparsity and MACs as the paper counts them. Code pickled in a checkpoint is
never run. Needs PyTorch: pip install 'str_keras[torch]'.
"""

import os

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_INPUT = flags.DEFINE_string(
    "input",
    None,
    "What to read: a checkpoint (.pth) of https://github.com/RAIVNLab/STR, with "
    "thresholds or dense-compatible, or a .keras file of ours.",
)
_OUTPUT = flags.DEFINE_string("output", "", "The .keras file to write.")
_TO_TORCH = flags.DEFINE_string(
    "to_torch",
    "",
    "The .pth to write: a state_dict in the authors' naming, with sparseThreshold, or "
    "dense-compatible if the model is plain or --strip is given.",
)
_ARCHITECTURE = flags.DEFINE_string(
    "architecture",
    "",
    "resnet18, resnet34, resnet50, resnet101 or mobilenetv1; empty: told by the "
    "checkpoint's keys. Classes and width are told by its shapes.",
)
_STRIP = flags.DEFINE_bool(
    "strip", False, "Write a plain model with zeros in its kernels, no thresholds."
)
_DENSE_LAYERS = flags.DEFINE_list(
    "dense_layers",
    [],
    "Modules of the checkpoint that were trained without a threshold, such as conv1 "
    "(the authors' --first-layer-dense).",
)
_STEM = flags.DEFINE_string(
    "stem", "imagenet", "imagenet, as the authors' networks, or small, as our own."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Pixels a side, which decide the MACs; 0: 224, or 32 for small.", 0
)
_DATA_PARALLEL = flags.DEFINE_bool(
    "data_parallel",
    False,
    "Write each key of --to_torch with the module. that the authors' --pretrained and "
    "--resume want.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> None:
    """Runs the conversion that the flags ask for."""
    from str_keras.torch_checkpoints import commands

    try:
        commands.convert(
            _INPUT.value,
            _OUTPUT.value,
            _TO_TORCH.value,
            architecture=_ARCHITECTURE.value,
            strip=_STRIP.value,
            dense_layers=_DENSE_LAYERS.value,
            stem=_STEM.value,
            image_size=_IMAGE_SIZE.value,
            data_parallel=_DATA_PARALLEL.value,
            overwrite=_OVERWRITE.value,
        )
    except ModuleNotFoundError as error:
        raise cli.UserError(str(error)) from error


if __name__ == "__main__":
    flags.mark_flags_as_required(["input"])
    cli.run(main)
