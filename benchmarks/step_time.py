"""What methods cost a step: `python -m benchmarks.step_time --net=mobilenetv1`.

Each method trains the same net in a process of its own; one computes at a time, some
steps each, in an order drawn anew every round, so that what slows the machine slows
all. A method's ratio to the dense net of its own library is taken round by round.
Memory is the most that a process ever held, less what its dense twin did, in copies of
the kernels in float32. Writes results/step_time_NET.csv, from which `python -m
benchmarks.report` makes RESULTS.md. `make pquant` installs PQuantML, once.
"""

from __future__ import annotations

import functools
import os
import pathlib
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from benchmarks.contenders import METHODS, TWINS
from benchmarks.nets import NETS
from str_keras import cli

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).parent
COLUMNS = (
    *("net", "batch_size", "method", "dense", "seconds", "ratio", "low", "high"),
    *("extra_copies", "kernel_bytes", "peak_bytes", "rounds", "steps", "reason"),
    *("hardware", "versions", "git_revision", "command"),
)
"""Seconds a step (median); ratio to the dense twin (median, quartiles); memory."""
WARM_UP = 1
"""Rounds that do not count."""
_LONGEST = 160
"""Characters of a reason."""


class Failed(Exception):
    """A contender's process ended; the message is the last line that it said."""


class Contender:
    """A process that trains when it is told to (`benchmarks.contenders`).

    Args:
        command: Its words.
        environment: Its variables; None for those of this process.

    Attributes:
        kernel_bytes: Of its dense kernels in float32.

    Raises:
        Failed: if it cannot start.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ):
        self.process: Any = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=HERE.parent,
        )
        self.kernel_bytes = int(self._answer().removeprefix("ready "))

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            lines = self.process.communicate()[1].strip().splitlines()
            raise Failed((lines or ["no message"])[-1][:_LONGEST])
        return line

    def train(self, steps: int) -> float:
        """Seconds of so many steps."""
        print(steps, file=self.process.stdin, flush=True)
        return float(self._answer())

    def end(self) -> int:
        """Ends the process; the most memory that it ever held, in bytes."""
        return int(self.process.communicate()[0])


def start(net: str, method: str, batch_size: int, threads: int | None) -> Contender:
    """Starts the process of a method.

    Args:
        net: One of `NETS`.
        method: One of `METHODS`.
        batch_size: Examples a step.
        threads: Of the CPU; None for all.
    """
    from experiments import pquant_twin

    python = sys.executable
    if method.startswith("pquant"):
        python = str(pquant_twin.python())
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "2"
    if threads is not None:
        for kind in ("TF_NUM_INTRAOP", "TF_NUM_INTEROP", "OMP_NUM"):
            environment[f"{kind}_THREADS"] = str(threads)
    words = [python, "-m", "benchmarks.contenders", net, method, str(batch_size)]
    return Contender(words, environment)


def measure(
    starts: Mapping[str, Callable[[], Contender]], rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """What each method took, and its memory.

    Args:
        starts: What starts the process, by method.
        rounds: That count.
        steps: Of each method in each round.

    Returns:
        By method `seconds` a step in each round, `kernel_bytes` and `peak_bytes`, or
        the `reason` why it cannot train.
    """
    from tqdm import tqdm

    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in starts}
    running: dict[str, Contender] = {}
    for name in tqdm(starts, desc="starting", disable=None):
        try:
            running[name] = starts[name]()
        except Failed as failed:
            found[name]["reason"] = str(failed)
    draw = random.Random(0)
    for number in tqdm(range(WARM_UP + rounds), desc="rounds", disable=None):
        for name in draw.sample(sorted(running), len(running)):
            try:
                seconds = running[name].train(steps) / steps
            except Failed as failed:
                del running[name]
                found[name] |= {"reason": str(failed), "seconds": []}
                continue
            if number >= WARM_UP:
                found[name]["seconds"].append(seconds)
    for name, one in running.items():
        memory = {"kernel_bytes": one.kernel_bytes, "peak_bytes": one.end()}
        found[name] |= memory
    return found


def summarize(
    found: Mapping[str, Mapping[str, Any]], twins: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of the table, without what is the same in all.

    Args:
        found: What `measure` gave.
        twins: The dense method that each is compared to; of those not there itself.
    """
    import numpy as np

    rows = []
    for name, one in found.items():
        row: dict[str, Any] = {**dict.fromkeys(COLUMNS, ""), "method": name}
        row |= {"dense": twins.get(name, name), "reason": one.get("reason", "")}
        twin = found[row["dense"]]
        if one["seconds"]:
            row["seconds"] = float(np.median(one["seconds"]))
            row |= {key: one[key] for key in ("kernel_bytes", "peak_bytes")}
            row["reason"] = f"{row['dense']}: {twin.get('reason', '')}"
        if one["seconds"] and twin["seconds"]:
            ratios = np.divide(one["seconds"], twin["seconds"])
            quartiles = (float(v) for v in np.quantile(ratios, (0.25, 0.5, 0.75)))
            row |= dict(zip(("low", "ratio", "high"), quartiles, strict=True))
            more = one["peak_bytes"] - twin["peak_bytes"]
            row |= {"extra_copies": more / one["kernel_bytes"], "reason": ""}
        rows.append(row)
    return rows


def choose(names: Sequence[str]) -> list[str]:
    """Methods in their order, each with the dense one that it is compared to.

    Args:
        names: Of methods; all if empty.

    Raises:
        ValueError: if one is unknown.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(
                f"--only has methods of {', '.join(METHODS)}. Received: {name!r}"
            )
    wanted = {*names, *(TWINS[name] for name in names if name in TWINS)}
    return [name for name in METHODS if name in wanted or not names]


def main() -> None:
    """Measures, prints and records."""
    from benchmarks import report
    from experiments import records
    from str_keras.run_directory import git_revision

    given = (FLAGS.net, FLAGS.batch_size, FLAGS.threads)
    revision = git_revision(ignore=["benchmarks/results", "benchmarks/RESULTS.md"])
    starts = {
        name: functools.partial(start, given[0], name, *given[1:])
        for name in choose(FLAGS.only)
    }
    found = measure(starts, FLAGS.rounds, FLAGS.steps)
    same = {
        **records.environment(FLAGS.threads),
        "net": FLAGS.net,
        "batch_size": FLAGS.batch_size,
        "rounds": FLAGS.rounds,
        "steps": FLAGS.steps,
        "command": shlex.join(["python", "-m", "benchmarks.step_time", *sys.argv[1:]]),
        "git_revision": revision or "",
    }
    rows = [{**row, **same} for row in summarize(found, TWINS)]
    default = HERE / "results" / f"step_time_{FLAGS.net}.csv"
    path = pathlib.Path(FLAGS.output or default)
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_csv(path, COLUMNS, rows)
    print(report.section(path), f"written to {path}", sep="\n\n")


if __name__ == "__main__":
    flags.DEFINE_enum("net", NETS[0], NETS, "Which net.")
    flags.DEFINE_list("only", [], "These methods and their twins; all if empty.")
    flags.DEFINE_integer("batch_size", 32, "Examples a step.", 1)
    flags.DEFINE_integer("rounds", 9, "That count, after one that does not.", 2)
    flags.DEFINE_integer("steps", 5, "Of each method in each round.", 1)
    flags.DEFINE_integer("threads", None, "CPU threads; all cores if not given.", 1)
    flags.DEFINE_string("output", "", "The table; results/step_time_NET.csv if empty.")
    cli.run(main)
