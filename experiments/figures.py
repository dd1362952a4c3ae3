"""Figures and tables of the experiments, from experiments/results.

    python -m experiments.figures                       every suite's figures
    python -m experiments.figures --suite=NAME --table  prints its tables as Markdown
    python -m experiments.figures --suite=NAME --readme=README.md

Reads results/SUITE.csv with budgets/ID.csv and history/ID.csv beside it, as
experiments.run writes them, and writes results/SUITE_*.png.
"""

from __future__ import annotations

import csv
import os
import pathlib

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from experiments import analysis, claims, markdown
from experiments.layer_figures import draw_budgets, draw_history
from experiments.pressure_figure import draw_pressures
from experiments.tradeoff_figures import draw_tradeoffs
from str_keras import cli, files

FLAGS = flags.FLAGS


def draw_suite(
    name: str, folder: pathlib.Path = analysis.RESULTS
) -> list[pathlib.Path]:
    """Draws the figures of a suite.

    Args:
        name: Of the suite.
        folder: With NAME.csv, budgets/ and history/; the figures go there too.

    Returns:
        Paths of the figures: NAME_accuracy_sparsity.png, NAME_accuracy_macs.png, and,
        where the tables are there, NAME_budgets.png and NAME_history.png; where
        thresholds follow MACs, NAME_pressure.png.

    Raises:
        OSError: if there are no results, or files cannot be written.
        ValueError: if a table is damaged.
    """
    results, _ = analysis.read(folder / f"{name}.csv")
    drawn: dict[str, bytes | None] = {
        **draw_tradeoffs(results),
        "budgets": draw_budgets(results, folder / "budgets"),
        "history": draw_history(results, folder / "history"),
        "pressure": draw_pressures(results),
    }
    paths = []
    for figure, data in drawn.items():
        if data is not None:
            path = folder / f"{name}_{figure}.png"
            with files.written_aside(path) as aside:
                aside.write_bytes(data)
            paths.append(path)
    return paths


def suite_tables(name: str, folder: pathlib.Path = analysis.RESULTS) -> str:
    """Results and claims of a suite as Markdown.

    Args:
        name: Of the suite.
        folder: With NAME.csv.

    Raises:
        OSError, ValueError: as `draw_suite`.
    """
    results, failed = analysis.read(folder / f"{name}.csv")
    if not results:
        raise ValueError(
            f"No run of the suite has finished with an accuracy. Received: suite={name}"
        )
    parts = [analysis.results_table(results)]
    if claims.claims(results):
        parts.append(claims.claims_table(results))
    if failed:
        said = ", ".join(f"{id} ({status})" for id, status in failed.items())
        parts.append(f"Without an accuracy, and in no mean: {said}.")
    return "\n\n".join(parts)


def _suites(folder: pathlib.Path) -> list[str]:
    """Suites that have results: tables with the columns of the runner.

    Those that calibrate are for its decays, not for figures; name them to see them.
    """
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        if "suite" in columns and not path.stem.startswith("calibrate"):
            found.append(path.stem)
    return found


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string(
        "suite", None, "A suite with results; all of them if not given."
    )
    flags.DEFINE_string("results", str(analysis.RESULTS), "Folder of the tables.")
    flags.DEFINE_boolean("table", False, "Print the tables, and draw nothing.")
    flags.DEFINE_string(
        "readme", None, "A Markdown file: the tables go between its markers `SUITE`."
    )


def main() -> None:
    """Draws, or prints and writes tables."""
    folder = pathlib.Path(FLAGS.results)
    names = [FLAGS.suite] if FLAGS.suite else _suites(folder)
    if not names:
        raise ValueError(
            "There are no results yet: python -m experiments.run --suite=NAME writes "
            f"them. Received: results={folder}"
        )
    for name in names:
        if FLAGS.table:
            print(suite_tables(name, folder))
        if FLAGS.readme:
            markdown.fill(FLAGS.readme, name, suite_tables(name, folder))
            print(f"wrote the tables of {name} to {FLAGS.readme}")
        if not FLAGS.table and not FLAGS.readme:
            for path in draw_suite(name, folder):
                print(path)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
