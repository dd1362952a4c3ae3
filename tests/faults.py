"""Trainings in processes of their own that meet a fault at a moment of choice.

`Trainings` keeps one process that has imported everything (TensorFlow's import takes
longer than all of a tiny training) and forks a child for each training. That child runs
the training command as the command line does, from flags to exit status.

A moment is the n-th time that Python touches the run directory (opens, renames, links,
removes a file), told by an audit hook just before it does; seconds after that; seconds
after the start; or the byte at which a file gets longer than a limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

TOUCHES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod"}
_ASIDE = re.compile(r"\.(\w+)\.\w{8}(\.\w+)")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to a training.

    Args:
        touch: At which touch of the run directory, from 1; 0 for none.
        of: Only touches whose text holds this count, such as "last.keras aside".
        delay: Seconds after that.
        after: Or seconds after the start of the process; 0 for none.
        signal: What the process gets; 0 for none.
        file_size: From then on the longest file that may be written, in bytes. To write
            more is an error, or with SIGXFSZ as `signal` the end, as by SIGKILL.
    """

    touch: int = 0
    of: str = ""
    delay: float = 0.0
    after: float = 0.0
    signal: int = 0
    file_size: int = 0


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a training ended.

    Args:
        status: Its exit status; that of a killed one is minus the signal.
        out: What it printed.
        err: And on standard error.
        touches: How it touched the run directory, one by one: event and file.
        seconds: From fork to end.
    """

    status: int
    out: str
    err: str
    touches: list[str]
    seconds: float


class Trainings:
    """Starts trainings, one at a time.

    Args:
        folder: For what they print.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )

    def run(
        self, run_dir: pathlib.Path, flags: Sequence[str], fault: Fault | None = None
    ) -> Ended:
        """Trains until the end or the fault."""
        order = {
            "run_dir": str(run_dir),
            "flags": list(flags),
            "fault": dataclasses.asdict(fault or Fault()),
            "folder": str(self.folder),
        }
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        ended = json.loads(self.process.stdout.readline())
        texts = (self.folder / name for name in ("out", "err"))
        out, err = (path.read_text(errors="replace") for path in texts)
        touches = (self.folder / "touches").read_text().splitlines()
        return Ended(ended["status"], out, err, touches, ended["seconds"])

    def close(self) -> None:
        """Ends the process."""
        with self.process:  # closes the pipes, which ends it, and waits
            pass


class _Hook:
    """Writes touches to a file that outlives the process, a line each, and strikes."""

    def __init__(self, fault: Fault, run_dir: str, log: int):
        self.fault, self.run_dir, self.log = fault, run_dir, log
        self.touches, self.over = 0, self.fault.touch == 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in TOUCHES:
            return
        paths = [os.fspath(a) for a in arguments if isinstance(a, str | os.PathLike)]
        paths = [str(path) for path in paths if str(path).startswith(self.run_dir)]
        if not paths:
            return
        names = [_ASIDE.sub(r"\1\2 aside", os.path.basename(path)) for path in paths]
        text = f"{event} {' to '.join(names)}"
        os.write(self.log, f"{text}\n".encode())
        self.touches += self.fault.of in text
        if self.touches == self.fault.touch and not self.over:
            self.over = True
            if self.fault.delay:
                threading.Timer(self.fault.delay, self.strike).start()
            else:
                self.strike()

    def strike(self) -> None:
        if size := self.fault.file_size:
            if self.fault.signal:  # Python ignores it
                signal.signal(self.fault.signal, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        elif self.fault.signal:
            os.kill(os.getpid(), self.fault.signal)


def _train(order: dict[str, Any]) -> None:
    """The child: what `python -m str_keras.train` does, with one more architecture."""
    from tiny_training import tiny

    import str_keras as stk
    from str_keras import cli, train

    folder = pathlib.Path(order["folder"])
    modes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, modes), number)
    log = os.open(folder / "touches", modes)
    stk.models.ARCHITECTURES["tiny"] = tiny
    sys.addaudithook(_Hook(Fault(**order["fault"]), order["run_dir"], log))
    train.define_flags()
    flags = [f"--run_dir={order['run_dir']}", *order["flags"]]
    sys.argv = ["train", *flags]
    cli.run(train.main)


def _serve() -> None:
    """Imports, and runs no operation: TensorFlow's threads do not survive a fork."""
    import str_keras.data
    import str_keras.train
    import str_keras.training  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _train(order)
            except SystemExit as stop:
                status = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        timer = None
        if after := order["fault"]["after"]:
            timer = threading.Timer(after, _kill, (child, order["fault"]["signal"]))
            timer.start()
        _, status = os.waitpid(child, 0)
        if timer is not None:
            timer.cancel()
        ended = {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
        }
        print(json.dumps(ended), flush=True)


def _kill(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number or signal.SIGKILL)


if __name__ == "__main__":
    _serve()
