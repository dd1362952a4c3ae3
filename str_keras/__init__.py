"""Learnable sparsity for Keras 3, from training to the phone.

`import str_keras` loads keras and the core; `str_keras.models`, `data` and `export`
(and with them TensorFlow) load on first use.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# Python has "-m" there while it imports for `python -m`; our scripts set the variable.
_IS_PROGRAM = sys.argv[:1] == ["-m"] or "STR_KERAS_PROGRAM" in os.environ
# The doctor tells why one of the imports below fails, so it does without them.
_IS_DOCTOR = _IS_PROGRAM and "str_keras.doctor" in sys.orig_argv

if _IS_PROGRAM and not _IS_DOCTOR:
    from str_keras.startup import import_quietly

    import_quietly("tensorflow")

if TYPE_CHECKING or not _IS_DOCTOR:
    from str_keras import budget, channels, layers, optimizers, schedules
    from str_keras.budget import summary
    from str_keras.channels import shrink, sparsify_channels
    from str_keras.folding import fold_rank
    from str_keras.forecasting import forecast
    from str_keras.freezing import freeze_mask
    from str_keras.layers import SoftThreshold
    from str_keras.learned import SparseModel
    from str_keras.leveled import LeveledModel
    from str_keras.operators import register_backward, register_operator, soft_threshold
    from str_keras.pruning import PrunedModel, prune
    from str_keras.ready import make_sparse_ready, sparse_ready_report
    from str_keras.recalibration import recalibrate
    from str_keras.sparsifying import register_threshold, sparsify
    from str_keras.steering import SparsityRamp
    from str_keras.stripping import copy_weights, strip
    from str_keras.targets import Target
    from str_keras.thresholds import register_g
    from str_keras.tuning import tune

if TYPE_CHECKING:
    from str_keras import data, export, models, torch_checkpoints

__version__ = "0.1.0"

_LAZY = ("data", "export", "models", "torch_checkpoints")

__all__ = [
    "LeveledModel",
    "PrunedModel",
    "SoftThreshold",
    "SparseModel",
    "SparsityRamp",
    "Target",
    "budget",
    "channels",
    "copy_weights",
    "data",
    "export",
    "fold_rank",
    "forecast",
    "freeze_mask",
    "layers",
    "make_sparse_ready",
    "models",
    "optimizers",
    "prune",
    "recalibrate",
    "register_backward",
    "register_g",
    "register_operator",
    "register_threshold",
    "schedules",
    "shrink",
    "soft_threshold",
    "sparse_ready_report",
    "sparsify",
    "sparsify_channels",
    "strip",
    "summary",
    "torch_checkpoints",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"str_keras.{name}")
    raise AttributeError(f"module 'str_keras' has no attribute {name!r}")
