"""Tells whether training works here, and what to mend: `python -m str_keras.doctor`.

Looks at versions and their ranges, extras, processor, memory, disk and variables of
the environment, then trains a small sparse net in a process of its own, so that a
TensorFlow that is missing or broken is reported, not met as a traceback. Ends with
status 1 if that training fails; `--json` prints the same for machines.

States: ok; note (good to know, nothing is broken); warning (something will not work, or
was never tested so); error (training does not work).
"""

from __future__ import annotations

import json
import sys

try:
    from absl import flags

    from str_keras import cli
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed: pip install str_keras")

from str_keras import diagnosis

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_boolean("json", False, "Print JSON for machines in place of tables.")
    flags.DEFINE_string(
        "run_dir", ".", "Folder that runs will be written to: whether it has room."
    )
    flags.DEFINE_integer(
        "timeout", 300, "Seconds after which the trial counts as failed.", 1
    )


def main() -> int:
    """Examines, prints, and tells by the status whether training works."""
    trial = diagnosis.try_training(FLAGS.timeout)
    tried = diagnosis.examine_trial(trial)
    backend = trial.passed.get("import", {}).get("backend", "")
    findings = [
        *diagnosis.examine_packages(),
        *diagnosis.examine_machine(FLAGS.run_dir),
        *diagnosis.examine_environment(),
        *tried,
    ]
    if trial.devices:
        findings += diagnosis.examine_combinations(backend, trial.devices)
    record = diagnosis.as_record(findings)
    if FLAGS.json:
        print(json.dumps(record, indent=1))
    else:
        print(diagnosis.as_text(findings))
        verdict = "training works" if record["works"] else "training does not work"
        warnings = record["counts"]["warning"]
        plural = "" if warnings == 1 else "s"
        more = f", with {warnings} warning{plural}" if warnings else ""
        print(f"\n{verdict} here{more}")
    return 0 if record["works"] else 1


if __name__ == "__main__":
    define_flags()
    cli.run(main)
