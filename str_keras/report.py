"""Reports on a training: `python -m str_keras.report --run_dir=RUN`.

Prints the run's facts and its per-layer table, and writes figures (PNG) and one
self-contained HTML page. `--compare=DENSE_RUN` puts other runs beside it.
"""

from __future__ import annotations

from absl import flags

from str_keras import cli, reporting

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string("run_dir", None, "Run directory written by str_keras.train.")
    flags.DEFINE_list(
        "compare", [], "Other run directories, by commas: the dense twin, for one."
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder for figures and index.html; RUN_DIR/report if not given.",
    )


def main() -> None:
    """Prints the report and writes its page."""
    if not FLAGS.run_dir:
        raise ValueError("--run_dir is missing: name the folder of a training run.")
    runs = reporting.load_runs(FLAGS.run_dir, [name for name in FLAGS.compare if name])
    print(reporting.as_text(runs), flush=True)
    try:
        page = reporting.write_pages(runs, FLAGS.output)
    except ModuleNotFoundError as error:
        raise cli.UserError(str(error)) from error
    print(f"\nwritten to {page}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
