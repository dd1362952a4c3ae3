"""Trains a sparse network: `python -m str_keras.train --run_dir=RUN [flags]`.

Without other flags: MobileNetV1 with STR on the images that come with the package, by
the paper's ImageNet recipe. `--config=quickstart` (a file under experiments/configs, or
any .toml, or another run's config.json) names a recipe; flags on the command line win.

Ctrl-C writes a checkpoint after the step and ends with status 130. SIGTERM, which comes
before a machine is taken away, does so with status 75; so ends a worker that has lost
another (--strategy=multi_worker_mirrored). --resume then goes on.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

from absl import flags

from str_keras import cli
from str_keras.config import FIELDS, check_used
from str_keras.config_files import find, from_dict, read
from str_keras.distribution import WorkerLost

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string(
        "run_dir", None, "Folder for tables, checkpoints and events; must not exist."
    )
    flags.DEFINE_string(
        "config",
        None,
        "A .toml file, its name under experiments/configs, or a run's config.json.",
    )
    flags.DEFINE_boolean("resume", False, "Go on with the run in --run_dir.")
    define = {
        "str": flags.DEFINE_string,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "float | None": flags.DEFINE_float,
        "bool": flags.DEFINE_boolean,
        "tuple[str, ...]": flags.DEFINE_list,
    }
    for name, field in FIELDS.items():
        default: Any = field.default
        if isinstance(default, tuple):
            default = list(default)
        define[str(field.type)](name, default, field.metadata["help"])


def _command() -> str:
    return shlex.join(["python", "-m", "str_keras.train", *sys.argv[1:]])


def main() -> None:
    """Reads the flags and trains."""
    if not FLAGS.run_dir:
        raise ValueError("--run_dir is missing: name a new folder for the run.")
    given = {name: FLAGS[name].value for name in FIELDS if FLAGS[name].present}
    if FLAGS.resume and FLAGS.config:
        raise ValueError(
            "--resume takes the run's own configuration: leave --config out. "
            f"Received: config={FLAGS.config!r}"
        )
    if FLAGS.resume:
        from str_keras.run_directory import RunDirectory

        base = RunDirectory(FLAGS.run_dir).read_config().to_dict()
    else:
        base = read(find(FLAGS.config)) if FLAGS.config else {}
    config = from_dict({**base, **given}, FLAGS.config or "the command line")
    check_used(config, given)

    from str_keras.training import Interrupted, train_and_evaluate

    again = f"--resume goes on, once there is {FLAGS.run_dir}/config.json"
    try:
        with cli.terminating(f"terminated outside of the steps: {again}"):
            result = train_and_evaluate(config, FLAGS.run_dir, FLAGS.resume, _command())
    except Interrupted as stop:
        status = cli.TERMINATED if stop.terminated else cli.INTERRUPTED
        raise cli.Stopped(str(stop), status) from None
    except WorkerLost as lost:
        raise cli.Stopped(str(lost), cli.TERMINATED) from lost
    if result.worker == 0:
        print(f"\n{result.summary}\n\nwritten to {FLAGS.run_dir}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
