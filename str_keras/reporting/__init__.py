"""What a finished (or running) training shows: text, figures and one HTML page."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from str_keras import files
from str_keras.reporting.facts import as_text
from str_keras.reporting.runs import Run, load_runs

__all__ = ["Run", "as_text", "load_runs", "write_pages", "write_report"]

Path = str | os.PathLike[str]


def write_report(
    run_dir: Path, compare: Sequence[Path] = (), output: Path | None = None
) -> pathlib.Path:
    """Writes figures and a self-contained HTML page about a run.

    Args:
        run_dir: Run directory of `str_keras.train`.
        compare: Other run directories to show beside it, such as the dense twin's.
        output: Folder for the files; `run_dir/report` if None.

    Returns:
        The path of `index.html`. Beside it lie `accuracy.png` and, if the run counted
        its kernels, `budget.png`; of a sparse run also `sparsity.png` and
        `threshold.png`; of finished runs that are compared, `tradeoff.png` and, if
        they are of one network, `budgets.png`.

    Raises:
        OSError: if a run directory is missing or none, or files cannot be written.
        ValueError: if a file of a run is damaged, or no epoch has finished yet.
        ModuleNotFoundError: without matplotlib or jinja2 (the `plot` extra).
    """
    return write_pages(load_runs(run_dir, compare), output)


def write_pages(runs: Sequence[Run], output: Path | None = None) -> pathlib.Path:
    """Does the work of `write_report` for runs that were read.

    Args:
        runs: The run itself, then those to compare it with.
        output: Folder for the files; `report` in the run's if None.
    """
    _check_installed()
    from str_keras.reporting import figures, page

    folder = pathlib.Path(output) if output else runs[0].path / "report"
    drawn = figures.draw(runs)
    for figure in drawn:
        with files.written_aside(folder / f"{figure.name}.png") as aside:
            aside.write_bytes(figure.png)
    files.write_text(folder / "index.html", page.render(runs, drawn))
    return folder / "index.html"


def _check_installed() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The report needs {error.name}: run pip install 'str_keras[plot]', "
            "or pip install matplotlib jinja2",
            name=error.name,
        ) from error
