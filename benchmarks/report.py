"""Writes the tables of RESULTS.md from results/*.csv: `python -m benchmarks.report`.

Each file has its place between two markers of its name; what stands around them is
left as it is, and a file without markers gets a section at the end. Goals stand beside
the figures of `step_time`, met or not; of other files all columns are shown but those
that say where the figures come from, which stand below.
"""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from experiments import markdown
from str_keras import cli, files

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).parent
PROVENANCE = ("hardware", "versions", "git_revision", "command")
GOAL, FROM_BATCH, COPIES = 1.03, 32, 1.0
"""STR's step to dense, from which batch size on, and copies of the kernels."""
OUTSIDE = ("tfmot", "pquant_autosparse", "pquant_dst", "pquant_cs")
Row = Mapping[str, str]


def _verdict(met: bool) -> str:
    return "met" if met else "not met"


def goals(rows: Sequence[Row]) -> list[str]:
    """What was wanted of STR and whether it is so, a line each.

    Args:
        rows: Of a file of `step_time`.
    """
    measured = {row["method"]: row for row in rows if row["ratio"]}
    if "str" not in measured:
        return []
    row = measured["str"]
    ratio, copies = float(row["ratio"]), float(row["extra_copies"])
    lines = []
    if int(row["batch_size"]) >= FROM_BATCH:
        lines.append(
            f"A step of STR at most {GOAL} times dense: {ratio:.3f}, "
            f"{_verdict(ratio <= GOAL)}."
        )
    for name in OUTSIDE:
        if name in measured:
            other = float(measured[name]["ratio"])
            lines.append(
                f"STR's ratio below that of {name}: {ratio:.3f} and {other:.3f}, "
                f"{_verdict(ratio < other)}."
            )
    lines.append(
        f"At most {COPIES:g} more copy of the kernels: {copies:.2f}, "
        f"{_verdict(copies <= COPIES)}."
    )
    return lines


def _step_time(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        line = [row["method"], row["dense"]]
        if row["ratio"]:
            low, high = float(row["low"]), float(row["high"])
            line += [
                f"{1e3 * float(row['seconds']):.1f} ms",
                f"{float(row['ratio']):.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{float(row['extra_copies']):.2f}",
            ]
        else:
            reason = row["reason"].replace("|", "\\|")
            line += [f"cannot: {reason}", "", "", ""]
        cells.append(line)
    heads = ("method", "dense", "a step", "to dense", "middle half", "extra copies")
    table = markdown.table(heads, cells, left=(0, 1))
    return "\n".join([table, "", *(f"- {line}" for line in goals(rows))]).strip()


def _other(rows: Sequence[Row]) -> str:
    columns = [name for name in rows[0] if name not in PROVENANCE]
    cells = [[row[name].replace("|", "\\|") for name in columns] for row in rows]
    return markdown.table(columns, cells)


def section(path: pathlib.Path) -> str:
    """What stands between the markers of a results file.

    Args:
        path: The .csv.

    Raises:
        ValueError: if it has no rows.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"The file has no rows: record it again. Received: {path}")
    first = rows[0]
    table = _step_time if "extra_copies" in first else _other
    named = [f"{name}: {first[name]}" for name in PROVENANCE if first.get(name)]
    return "\n\n".join([table(rows), *named])


def write(results: pathlib.Path, output: pathlib.Path) -> None:
    """Fills the report.

    Args:
        results: Folder of the .csv files.
        output: The Markdown file; made if it is missing.

    Raises:
        ValueError: if there are no files.
    """
    paths = sorted(results.glob("*.csv"))
    if not paths:
        raise ValueError(f"There are no .csv files. Received: {results}")
    sections = {path.stem: section(path) for path in paths}
    title = "# What training and the tools cost\n"
    text = output.read_text(encoding="utf-8") if output.is_file() else title
    for name in sections:
        if f"<!-- {name} -->" not in text:
            text += f"\n## {name}\n\n<!-- {name} -->\n<!-- end of {name} -->\n"
    files.write_text(output, text)
    for name, filled in sections.items():
        markdown.fill(output, name, filled)


def main() -> None:
    """Writes the report."""
    write(pathlib.Path(FLAGS.results), pathlib.Path(FLAGS.output))
    print(f"Wrote {FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("results", str(HERE / "results"), "Folder of the .csv files.")
    flags.DEFINE_string("output", str(HERE / "RESULTS.md"), "The file with the tables.")
    cli.run(main)
