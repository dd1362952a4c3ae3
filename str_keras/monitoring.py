"""What watches a training: progress, sparsity, dead layers, NaN, signals, events."""

from __future__ import annotations

import contextlib
import math
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
from tqdm import tqdm

from str_keras.budget import KernelSparsity, measure_sparsity, overall_sparsity
from str_keras.cli import UserError
from str_keras.internals import iterations

PROBES_AN_EPOCH, MAX_STEPS_UNSEEN = 10, 50
"""The sparsity is counted so often an epoch, and after so many steps at the latest: it
reads every kernel."""


class Diverged(UserError):
    """The loss is NaN or infinite."""


class ModelCallback(keras.callbacks.Callback):
    """A callback whose model is typed (Keras': one that may be None)."""

    model: Any

    def taken_until(self, batch: int) -> int:
        """Batches that `fit` took until the end of one.

        Where a call takes several, the last call of an epoch may take fewer, and Keras
        counts it as a whole one.
        """
        steps = (self.params or {}).get("steps")
        return min(batch + 1, steps) if steps else batch + 1


class SparsityProbe(ModelCallback):
    """Counts non-zeros as training goes, and names a layer when all of it is dead.

    Args:
        steps: Batches of an epoch.
        mend: What would prevent that, as the start of a sentence.
    """

    def __init__(self, steps: int, mend: str = "A lower --threshold_decay"):
        super().__init__()
        self.mend = mend
        self.every = min(max(1, steps // PROBES_AN_EPOCH), MAX_STEPS_UNSEEN)
        self.layers: list[KernelSparsity] = []
        self.dead: set[str] = set()
        self.taken = 0

    def probe(self) -> None:
        """Counts now."""
        self.layers = measure_sparsity(self.model)
        for layer in self.layers:
            if layer.nonzeros == 0 and layer.path not in self.dead:
                self.dead.add(layer.path)
                step = iterations(self.model)
                tqdm.write(
                    f"warning: every weight of {layer.path} is zero since step {step} "
                    f"(threshold {layer.threshold:.3g}): nothing passes it. "
                    f"{self.mend}, or the layer in --skip, prevents it.",
                    file=sys.stderr,
                )

    @property
    def sparsity(self) -> float:
        """Overall, as last counted."""
        return overall_sparsity(self.layers)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Counts before the first step."""
        self.taken = 0
        self.probe()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts now and then."""
        before, self.taken = self.taken, self.taken_until(batch)
        if self.taken // self.every > before // self.every:
            self.probe()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Counts once more: this is what the table shows."""
        self.probe()


class StopOnNan(ModelCallback):
    """Stops at the first step whose loss is not finite, and at weights that are not.

    Args:
        checkpoint: The last good one, for the message; it need not exist yet.

    Raises:
        Diverged: with the step and the checkpoint.
    """

    def __init__(self, checkpoint: pathlib.Path):
        super().__init__()
        self.checkpoint = checkpoint
        self.batch = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the mean loss of the epoch so far: one NaN makes it NaN."""
        self.batch = batch
        loss = float((logs or {}).get("loss", 0.0))
        if math.isfinite(loss):
            return
        self._stop(f"The loss is {loss}", batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the weights: the last loss was computed before the last update."""
        for variable in self.model.weights:
            total: Any = keras.ops.sum(variable)
            if not math.isfinite(float(total)):
                self._stop(f"The weight {variable.path} is not finite", self.batch)

    def _stop(self, what: str, batch: int) -> None:
        step = iterations(self.model)
        good = (
            f"the last good checkpoint is {self.checkpoint}"
            if self.checkpoint.exists()
            else "there is no checkpoint yet"
        )
        raise Diverged(
            f"{what} at step {step} (batch {batch + 1} of the epoch): "
            f"lower --lr, or lengthen --warmup_epochs; {good}."
        )


class Progress(ModelCallback):
    """A bar with loss, accuracy, sparsity and images per second; silent in a pipe.

    Args:
        title: Such as "epoch 3/12".
        steps: Batches of the epoch.
        batch_size: Images of each.
        probe: Where the sparsity comes from; None for a dense net.
        done: Batches of the epoch that an earlier run did.
    """

    def __init__(
        self,
        title: str,
        steps: int,
        batch_size: int,
        probe: SparsityProbe | None,
        done: int = 0,
    ):
        super().__init__()
        self.batch_size = batch_size
        self.probe = probe
        self.seconds = 0.0
        self.taken = 0
        self.bar = tqdm(
            total=steps * batch_size,
            initial=done * batch_size,
            desc=title,
            unit="img",
            unit_scale=True,
            leave=False,
            disable=None,  # where the output is no terminal
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock."""
        self.taken = 0
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        shown = {k: f"{float(v):.3f}" for k, v in (logs or {}).items()}
        if self.probe is not None:
            shown["sparsity"] = f"{100 * self.probe.sparsity:.1f} %"
        self.bar.set_postfix(shown, refresh=False)
        before, self.taken = self.taken, self.taken_until(batch)
        self.bar.update((self.taken - before) * self.batch_size)

    def on_train_end(self, logs: Any = None) -> None:
        """Stops the clock."""
        self.seconds = time.perf_counter() - self.started
        self.bar.close()


class Interruption(ModelCallback):
    """Ends the training after the step that Ctrl-C or SIGTERM falls into.

    A second one kills. After SIGTERM little time is left: it ends an evaluation too.

    Args:
        agree: From the number of the signal that this process got, 0 without one, to
            that for all processes that train together: called after every batch.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        super().__init__()
        self.agree = agree
        self.received = self.signal = 0
        self.steps = 0
        self.cut_evaluation = False

    @property
    def caught(self) -> bool:
        """Whether there was one."""
        return self.signal != 0

    @property
    def terminated(self) -> bool:
        """Whether that was SIGTERM."""
        return self.signal == signal.SIGTERM

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interruption]:
        """Catches both inside the block (in the main thread: Python's rule)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def catch(number: int, _: Any) -> None:
            self.received = number
            restore()
            again = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
            tqdm.write(f"Stopping after this step; {again} again kills.", sys.stderr)

        for number in before:
            signal.signal(number, catch)
        try:
            yield self
        finally:
            restore()

    def look(self) -> None:
        """Finds out whether there was a signal, here or in another process."""
        self.signal = self.agree(self.received)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets the last epoch's steps."""
        self.steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the step, and stops."""
        self.steps = self.taken_until(batch)
        self.look()
        if self.caught:
            self.model.stop_training = True

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops an evaluation."""
        self.look()
        if self.terminated:
            self.model.stop_evaluating = self.cut_evaluation = True


class Means(ModelCallback):
    """The means of an epoch, taken up where it was cut: `fit` starts them anew.

    Args:
        values: As `read` gave them; None at the start of an epoch.
    """

    def __init__(self, values: list[Any] | None):
        super().__init__()
        self.values = values

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Writes them."""
        if self.values is not None:
            for variable, value in zip(
                self.model.metrics_variables, self.values, strict=True
            ):
                variable.assign(value)

    def read(self) -> list[Any]:
        """The state of loss and metrics, as JSON takes it."""
        ops: Any = keras.ops
        variables = self.model.metrics_variables
        return [ops.convert_to_numpy(variable).tolist() for variable in variables]


class TensorBoardWriter:
    """Scalars of an epoch, and per layer sparsity and threshold, as TensorBoard events.

    Args:
        folder: Of the events; made with the first.
    """

    def __init__(self, folder: pathlib.Path):
        import tensorflow as tf

        self._tf, self._folder = tf, folder
        self._writer: Any = None

    def write(
        self, epoch: int, scalars: dict[str, Any], layers: list[KernelSparsity]
    ) -> None:
        """Writes one epoch."""
        if self._writer is None:  # which makes a file by being closed, too
            self._writer = self._tf.summary.create_file_writer(str(self._folder))
        with self._writer.as_default(step=epoch):
            for name, value in scalars.items():
                if isinstance(value, int | float):
                    self._tf.summary.scalar(name, value)
            for layer in layers:
                self._tf.summary.scalar(f"sparsity/{layer.path}", layer.sparsity)
                self._tf.summary.scalar(f"threshold/{layer.path}", layer.threshold)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
