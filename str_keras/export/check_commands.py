"""What `tools/check_sparse.py` does."""

from __future__ import annotations

from pathlib import Path

from str_keras.export.checking import check_sparse
from str_keras.export.targets import write_json
from str_keras.startup import stderr_aside

REQUIRED = ("sparse", "safe", "nothing")


def check_file(model: str, json_path: str = "", require: str = "sparse") -> int:
    """Prints what `check_sparse` finds of a file, and writes it as JSON.

    Args:
        model: Path of a .tflite or .keras file.
        json_path: Where to, or empty.
        require: "sparse": sparse kernels run on all targets that have them; "safe":
            the file loads and gives right outputs on all targets; "nothing".

    Returns:
        The exit status: 0 if what is required holds, else 1.

    Raises:
        ValueError: for a bad value, or a file that cannot be checked.
        OSError: if a file cannot be read or written.
    """
    if require not in REQUIRED:
        raise ValueError(f"require one of {REQUIRED}. Received: --require={require}")
    with stderr_aside():
        found = check_sparse(model)
    print(found)
    if json_path:
        write_json(Path(json_path), found.to_json())
    holds = {"sparse": found.is_sparse, "safe": found.is_safe, "nothing": True}
    return 0 if holds[require] else 1
