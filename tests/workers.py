"""Trainings by several workers on this machine, each a process with its TF_CONFIG.

`Team` keeps one process that has imported everything and forks the workers from it:
TensorFlow's import takes longer than all of a tiny training. A worker runs the training
command as the command line does, from flags to exit status.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to one of the workers.

    Args:
        worker: To which; -1 to none.
        step: After this step of the optimizer.
        signal: What the process gets.
    """

    worker: int = -1
    step: int = 0
    signal: int = signal.SIGKILL


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Args:
        status: Its exit status; that of a killed one is minus the signal.
        out: What it printed.
        err: And on standard error.
        weights: Of the model it ended with, an .npz file; None if it did not.
    """

    status: int
    out: str
    err: str
    weights: pathlib.Path | None


class Team:
    """Trains by several workers.

    Args:
        folder: For what they print and end with.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.orders = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )

    def run(
        self,
        run_dir: pathlib.Path,
        flags: Sequence[Sequence[str]],
        fault: Fault | None = None,
    ) -> list[Ended]:
        """Trains until the end or the fault.

        Args:
            run_dir: Of all workers.
            flags: Those of each worker.
            fault: If any.
        """
        self.orders += 1
        folder = self.folder / str(self.orders)
        folder.mkdir()
        order = {
            "run_dir": str(run_dir),
            "flags": [list(own) for own in flags],
            "fault": dataclasses.asdict(fault or Fault()),
            "folder": str(folder),
        }
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        statuses = json.loads(self.process.stdout.readline())
        ended = []
        for worker, status in enumerate(statuses):
            texts = [folder / f"{name}{worker}" for name in ("out", "err")]
            out, err = (path.read_text(errors="replace") for path in texts)
            weights = folder / f"weights{worker}.npz"
            kept = weights if weights.is_file() else None
            ended.append(Ended(status, out, err, kept))
        return ended

    def close(self) -> None:
        """Ends the process."""
        with self.process:  # closes the pipes, which ends it, and waits
            pass


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _work(order: dict[str, Any], worker: int) -> None:
    """The child: what `python -m str_keras.train` does, with one more architecture."""
    import numpy as np
    from tiny_training import tiny

    import str_keras as stk
    from str_keras import cli, monitoring, train, training
    from str_keras.internals import iterations

    folder = pathlib.Path(order["folder"])
    for name, number in (("out", 1), ("err", 2)):
        modes = os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(folder / f"{name}{worker}", modes), number)
    stk.models.ARCHITECTURES["tiny"] = tiny
    fault = Fault(**order["fault"])
    end_of_batch = monitoring.Interruption.on_train_batch_end

    def strike(self: Any, batch: int, logs: Any = None) -> None:
        if worker == fault.worker and iterations(self.model) == fault.step:
            os.kill(os.getpid(), fault.signal)
        end_of_batch(self, batch, logs)

    monitoring.Interruption.on_train_batch_end = strike
    plain = training.train_and_evaluate

    def keep(*arguments: Any) -> Any:
        result = plain(*arguments)
        np.savez(folder / f"weights{worker}.npz", *result.model.get_weights())
        return result

    training.train_and_evaluate = keep
    train.define_flags()
    flags = [f"--run_dir={order['run_dir']}", *order["flags"][worker]]
    sys.argv = ["train", *flags]
    cli.run(train.main)


def _start(order: dict[str, Any], worker: int, cluster: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    task = {"type": "worker", "index": worker}
    told = {"cluster": {"worker": cluster}, "task": task}
    os.environ["TF_CONFIG"] = json.dumps(told)
    status = 1
    try:
        _work(order, worker)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    """Imports, and runs no operation: TensorFlow's threads do not survive a fork."""
    import str_keras.data
    import str_keras.train
    import str_keras.training  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        count = len(order["flags"])
        cluster = [f"127.0.0.1:{port}" for port in _free_ports(count)]
        children = [_start(order, worker, cluster) for worker in range(count)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        codes = [os.waitstatus_to_exitcode(status) for status in statuses]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _serve()
