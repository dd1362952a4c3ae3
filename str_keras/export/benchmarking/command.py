"""What `tools/benchmark_tflite.py` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from str_keras.export.benchmarking.measuring import benchmark
from str_keras.export.runtimes.installed import check_name
from str_keras.files import write_text
from str_keras.run_directory import git_revision


def benchmark_files(
    files: Sequence[str],
    *,
    runtimes: Sequence[str],
    threads: Sequence[str],
    json_path: str,
    command: str,
    **options: Any,
) -> int:
    """Times files against each other and prints the table.

    Args:
        files: Paths of .tflite files, the baseline or the sparse one first.
        runtimes: As of `benchmark`.
        threads: The numbers as text.
        json_path: Where the report goes as JSON; empty: nowhere.
        command: The command line, for the JSON.
        **options: Further ones of `benchmark`.

    Returns:
        The exit status: 1 if a file does not run somewhere, or runs wrong.

    Raises:
        ValueError: for a bad argument or file.
        OSError: if a file or a runtime is missing, or the JSON cannot be written.
    """
    for name in runtimes:
        check_name(name)
    try:
        counts = [int(number) for number in threads]
    except ValueError:
        told = ",".join(threads)
        raise ValueError(
            f"the numbers of threads are whole ones. Received: --threads={told}"
        ) from None
    report = benchmark(files, runtimes=runtimes, threads=counts, **options)
    print(report)
    if json_path:
        told = {"command": command, "git_revision": git_revision()}
        write_text(json_path, json.dumps(told | report.to_json(), indent=1) + "\n")
    return 0 if report.is_right else 1
