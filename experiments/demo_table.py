"""The table of the demonstration's twins, from experiments/results/demo.json.

    python -m experiments.demo_table                          prints it
    python -m experiments.demo_table --readme=docs/device.md  fills it in

The numbers are those that `experiments.demo --picture` measured.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments import markdown
from str_keras import cli

FLAGS = flags.FLAGS
RESULT = pathlib.Path(__file__).parent / "results" / "demo.json"


def table(record: dict[str, Any]) -> str:
    """A column of each twin, and a sentence on how their times were measured.

    Args:
        record: What `demo_record.write_record` returns, of twins that were trained.
    """
    twins = record["dense"], record["sparse"]
    (on,) = {twin["accuracy_on"] for twin in twins}
    accuracy = [f"{100 * twin['accuracy']:.2f} %" for twin in twins]
    rows = [[f"top-1 on the {int(on.split()[0]):,} test images", *accuracy]]
    rows += [[name, *map(tell, twins)] for name, tell in _ROWS.items()]
    return f"{markdown.table(['', 'dense', 'STR'], rows)}\n\n{_note(record)}"


def _note(record: dict[str, Any]) -> str:
    ratios, time = record["of_measurements"], record["dense_time_over_sparse"]
    browser = record["versions"]["chromium"].partition(" built on")[0]
    return (
        f"STR's file is {record['dense_bytes_over_sparse']:.1f} times smaller and runs "
        f"{time:.1f} times faster in the median of {len(ratios)} measurements "
        f"({min(ratios):.2f} to {max(ratios):.2f}), each of {record['runs_of_each']} "
        "runs of each file in turn; the milliseconds are of the middle one. "
        f"{browser}, {record['runtime']}; {record['hardware']}."
    )


def _milliseconds(twin: dict[str, Any]) -> str:
    low, median, high = (twin["milliseconds"][k] for k in ("low", "median", "high"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "weights that are not zero": lambda twin: f"{twin['nonzeros']:,}",
    "zeros": lambda twin: f"{100 * twin['sparsity']:.1f} %",
    "MACs with non-zeros": lambda twin: f"{twin['macs_of_nonzeros']:,}",
    "float32 .tflite, bytes": lambda twin: f"{twin['bytes']:,}",
    "to download, by the browser's gzip": lambda twin: f"{twin['gzip_bytes']:,}",
    "milliseconds a picture (middle half)": _milliseconds,
}


def main() -> None:
    """Prints the table, or fills it in."""
    text = table(json.loads(pathlib.Path(FLAGS.result).read_text(encoding="utf-8")))
    if FLAGS.readme:
        markdown.fill(FLAGS.readme, "demo", text)
    else:
        print(text)


if __name__ == "__main__":
    flags.DEFINE_string("result", str(RESULT), "result.json of experiments.demo.")
    flags.DEFINE_string("readme", "", "A file with the table's markers to fill.")
    cli.run(main)
