"""The authors' PyTorch checkpoints: into our models, and back.

PyTorch is loaded when a file is read or written; `names` and the conversion of arrays
do without it.
"""

from str_keras.torch_checkpoints.conversion import (
    from_state_dict,
    load,
    save,
    to_state_dict,
)

__all__ = ["from_state_dict", "load", "save", "to_state_dict"]
