"""`train_and_evaluate`: from a configuration to a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, NoReturn

import keras
import tensorflow as tf
from tqdm import tqdm

from str_keras import building, checkpoint, data
from str_keras.alarms import DriftAlarm, LossWatch
from str_keras.budget import Summary, summary
from str_keras.checkpoint import Progress
from str_keras.config import TrainConfig
from str_keras.data.order import Share
from str_keras.distribution import Workers, create_strategy
from str_keras.forecasting import Forecast, forecast
from str_keras.model import find_thresholded
from str_keras.monitoring import (
    Interruption,
    Means,
    SparsityProbe,
    StopOnNan,
    TensorBoardWriter,
)
from str_keras.monitoring import Progress as ProgressBar
from str_keras.ready import sparse_ready_report
from str_keras.run_directory import RunDirectory, best_epoch


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the checkpoint was written.

    Args:
        message: Where it stopped.
        terminated: Whether it was SIGTERM.
    """

    def __init__(self, message: str, terminated: bool = False):
        super().__init__(message)
        self.terminated = terminated


@dataclasses.dataclass(frozen=True)
class Result:
    """What a training ended with.

    Args:
        model: The trained model, thresholds and optimizer with it.
        metrics: A dictionary per epoch, with the columns of metrics.csv.
        summary: Of the model.
        worker: Number of this process among those that trained together, from 0.
    """

    model: keras.Model
    metrics: list[dict[str, Any]]
    summary: Summary
    worker: int = 0


def _forecast(config: TrainConfig, model: Any, steps: int) -> Forecast | None:
    """Of thresholds that decay leads; None of others."""
    if not config.learns_thresholds or config.target is not None:
        return None
    kernels = [item.kernel.variable for item in find_thresholded(model)]
    return forecast(
        model.optimizer, steps * config.epochs, model.s_init, model.g, kernels, steps
    )


def _print_plan(config: TrainConfig, model: Any, steps: int) -> None:
    """What will happen to the sparsity."""
    ramp = building.create_ramp(config, steps)
    if config.steps_per_execution > 1 and config.method != "dense":
        print(
            f"a call of the program takes {config.steps_per_execution} batches: inside "
            "of it thresholds on a ramp stay, and no alarm looks"
        )
    if config.target is not None and ramp is not None:
        print(ramp.describe(model), flush=True)
    seen = _forecast(config, model, steps)
    if seen is None:
        return
    print(seen, flush=True)
    if seen.verdict == "nothing":
        print(
            "hint: the default decay is for 100 epochs of ImageNet. In fewer steps "
            "raise --threshold_decay until Lambda is 2 or more, as --config=quickstart "
            "does."
        )


def _print_form(config: TrainConfig, model: Any) -> None:
    """Says so if a policy prunes for sparse kernels that this net will not run on."""
    if config.policy != "latency":
        return
    report = sparse_ready_report(model)
    if not report.ready:
        print(
            f"hint: --policy=latency makes a net faster that has the form for sparse "
            f"kernels. {report.summary}.",
            flush=True,
        )


def _mend_of_death(config: TrainConfig) -> str:
    """What keeps layers alive under a method."""
    if config.target is not None:
        return "A larger --min_density"
    return "A lower " + (
        "--threshold_decay" if config.learns_thresholds else "sparsity of the layer"
    )


def evaluation_size(images: int, batch_size: int, replicas: int) -> int:
    """The batch size to evaluate with: that of training, or one near to it.

    No replica must be left without images by the last batch: workers then take steps
    of different numbers, and TensorFlow's convolutions on the CPU fail without any.

    Args:
        images: To evaluate on.
        batch_size: Of training, a multiple of the replicas.
        replicas: That split each batch.
    """
    smaller = range(batch_size, 0, -replicas)
    larger = range(batch_size + replicas, images + replicas, replicas)
    for size in (*smaller, *larger):
        rest = images % size
        if not rest or math.ceil(rest / replicas) * (replicas - 1) < rest:
            return size
    return batch_size  # fewer images than replicas


class _Trainer:
    """One run: the epochs, their tables and checkpoints."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory,
        dataset: data.ImageDataset,
        model: Any,  # Keras' stubs want verbose and jit_compile to be strings
        progress: Progress,
        workers: Workers,
    ):
        self.config, self.run, self.dataset, self.model = config, run, dataset, model
        self.start, self.workers = progress, workers
        self.steps = dataset.steps_per_epoch(config.batch_size)
        # What `fit` takes: batches, or where gradients accumulate their parts.
        self.parts = config.gradient_accumulation_steps
        self.batches = self.steps * self.parts
        self.images = config.batch_size // self.parts
        replicas = workers.strategy.num_replicas_in_sync
        self.test_size = evaluation_size(dataset.info.num_test, self.images, replicas)
        self.interruption = Interruption(self._agree)
        self.probe = SparsityProbe(self.batches, _mend_of_death(config))
        self.probe.set_model(model)
        self.watch = LossWatch(self.batches * config.epochs)
        if "watch" in progress.state:
            cut = 0 < progress.step < self.batches
            self.watch.restore(progress.state["watch"], cut)
        seen = _forecast(config, model, self.steps)
        # A training that goes on has other kernels, but the same decay.
        self.alarm = None if seen is None else DriftAlarm(seen, model)

    def _agree(self, signal: int) -> int:
        """The signal that any worker got: all end after the same step."""
        return int(self.workers.gather([signal]).max())

    def _read(self, read: Callable[[Any], tf.data.Dataset]) -> Any:
        """Batches as `fit` takes them; each of several workers reads its own share.

        Args:
            read: From a `tf.distribute.InputContext`, or None, to a pipeline.
        """
        if self.workers.count == 1:
            return self._one_hot(read(None))
        return self.workers.strategy.distribute_datasets_from_function(
            lambda context: self._one_hot(read(context))
        )

    def _train_batches(self, epoch: int, done: int) -> Any:
        """Those of an epoch, from one on."""

        def read(context: Any) -> tf.data.Dataset:
            each = Share.of(self.images, context).elements_per_step
            whole = self.dataset.train(epoch, self.images, context)
            return whole.take(self.batches * each).skip(done * each)

        return self._read(read)

    def _test_batches(self, count: int) -> Any:
        """The first of those to evaluate on."""
        size = self.test_size

        def read(context: Any) -> tf.data.Dataset:
            each = Share.of(size, context).elements_per_step
            return self.dataset.evaluation(size, context).take(count * each)

        return self._read(read)

    def _told(self, number: int) -> int | None:
        """The number of batches, of which pipelines of several workers do not know."""
        return None if self.workers.count == 1 else number

    def _one_hot(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        classes = self.dataset.info.num_classes
        return batches.map(lambda images, labels: (images, tf.one_hot(labels, classes)))

    def train(self) -> None:
        """Runs the epochs that are left."""
        events = TensorBoardWriter(self.run.events)
        try:
            with self.interruption.installed():
                for epoch in range(self.start.epoch, self.config.epochs):
                    self._epoch(epoch, events)
        except tf.errors.InvalidArgumentError as error:
            if reason := self.dataset.explain(error):
                raise ValueError(reason) from error
            raise
        finally:
            events.close()
        rise = self.watch.largest_rise
        if self.config.target is not None and rise is not None:
            tqdm.write(
                "largest rise of the loss in the last tenth of the training, between "
                f"means of {self.watch.window} steps: {rise:+.4f}"
            )

    def _epoch(self, epoch: int, events: TensorBoardWriter) -> None:
        start = self.start if epoch == self.start.epoch else Progress(epoch)
        title = f"epoch {epoch + 1}/{self.config.epochs}"
        if "row" in start.state:  # terminated after the last step
            row = start.state["row"]
            self.probe.probe()
        else:
            row = self._fit(title, start)
        row |= self._evaluate(epoch + 1)
        if self.interruption.terminated and self.interruption.cut_evaluation:
            self._stop(Progress(epoch, self.batches, {"row": row}), title)
        images = self.steps * self.config.batch_size
        row["images_per_second"] = round(images / row["seconds"], 1)
        row["seconds"] = round(row["seconds"], 3)
        self._finish_epoch(title, row, events)
        self.interruption.look()
        if self.interruption.caught:
            raise Interrupted(
                f"stopped after {title}; --resume goes on there",
                self.interruption.terminated,
            )

    def _fit(self, title: str, start: Progress) -> dict[str, Any]:
        """Runs the steps of an epoch that are left, and gives its row."""
        config, epoch, done = self.config, start.epoch, start.step
        if done:
            # Metrics have variables, into which means are written, from a batch on.
            one = self._test_batches(1)
            self.model.evaluate(one, verbose=0, steps=self._told(1))
        probe = None if config.method == "dense" else self.probe
        bar = ProgressBar(title, self.batches, self.images, probe, done)
        ramp = building.create_ramp(config, self.steps)
        before = [c for c in (ramp, probe, self.alarm) if c is not None]
        means = Means(start.state.get("means"))
        watchers = [means, StopOnNan(self.run.last), *before, self.watch, bar]
        if ramp is not None:
            ramp.is_cut = lambda: self._is_cut(done)
        rate = start.state.get("learning_rate")
        if rate is None:
            rate = float(self.model.optimizer.learning_rate)
        try:
            history = self.model.fit(
                self._train_batches(epoch, done),
                steps_per_epoch=self._told(self.batches - done),
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,  # the pipeline does
                verbose=0,
                callbacks=[*watchers, self.interruption],
            ).history
        finally:
            bar.bar.close()
        seconds = bar.seconds + start.state.get("seconds", 0.0)
        if self._is_cut(done):
            state = {"means": means.read(), "learning_rate": rate, "seconds": seconds}
            self._stop(Progress(epoch, done + self.interruption.steps, state), title)
        return {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps,
            "learning_rate": rate,
            "loss": history["loss"][-1],
            "accuracy": history["accuracy"][-1],
            "sparsity": self.probe.sparsity,
            "seconds": seconds,
        }

    def _stop(self, progress: Progress, title: str) -> NoReturn:
        """Ends inside of an epoch."""
        self._save(progress)
        raise Interrupted(
            f"stopped after step {progress.step // self.parts} of {title}; --resume "
            "goes on there",
            self.interruption.terminated,
        )

    def _save(self, progress: Progress) -> None:
        if not self.run.writes:
            return
        with self.run.writing("The checkpoint"):
            checkpoint.save(
                self.model, self.run.last, self._watched(progress), self.run.previous
            )

    def _watched(self, progress: Progress) -> Progress:
        """With what the watch has seen: it goes on in another process."""
        state = {**progress.state, "watch": self.watch.state()}
        return dataclasses.replace(progress, state=state)

    def _is_cut(self, done: int) -> bool:
        """Whether the epoch, `done` steps of it before, ended before its last step."""
        done += self.interruption.steps
        return self.interruption.caught and done < self.batches

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        last = epoch == self.config.epochs
        if epoch % self.config.evaluate_every and not last:
            return {"val_loss": "", "val_accuracy": ""}
        number = math.ceil(self.dataset.info.num_test / self.test_size)
        found = self.model.evaluate(
            self._test_batches(number),
            steps=self._told(number),
            verbose=0,
            return_dict=True,
            callbacks=[self.interruption],
        )
        return {"val_loss": found["cross_entropy"], "val_accuracy": found["accuracy"]}

    def _finish_epoch(
        self, title: str, row: dict[str, Any], events: TensorBoardWriter
    ) -> None:
        run, probe = self.run, self.probe
        # The table first: a run killed here repeats the epoch and its line.
        run.add_epoch(row, probe.layers)
        if not run.writes:
            return
        progress = Progress(row["epoch"])
        if best_epoch(run.metrics) == len(run.metrics) - 1:
            with run.writing("The checkpoint"):
                checkpoint.save(self.model, run.best, self._watched(progress))
        # Last: from here on the epoch is not repeated.
        self._save(progress)
        events.write(row["epoch"], row, probe.layers)
        parts = [title, f"loss {row['loss']:.4f}", f"accuracy {row['accuracy']:.4f}"]
        if row["val_accuracy"] != "":
            parts.append(f"validation accuracy {row['val_accuracy']:.4f}")
        if self.config.method != "dense":
            parts.append(f"sparsity {100 * row['sparsity']:.2f} %")
        parts.append(f"{row['images_per_second']:,.0f} images/s")
        tqdm.write("  ".join(parts))


def train_and_evaluate(
    config: TrainConfig,
    run_dir: str | os.PathLike[str],
    resume: bool = False,
    command: str = "",
) -> Result:
    """Trains as configured and writes the run directory.

    config.json, metrics.csv (a line per epoch), layers.csv (sparsity and threshold per
    layer and epoch), budget.csv and summary.json, last.keras (with the optimizer),
    previous.keras (the one before, which is taken if last.keras is damaged), best.keras
    (the most accurate epoch within half a point of the sparsity reached), and
    TensorBoard events.

    Args:
        config: What to train.
        run_dir: New or empty folder; with `resume`, that of the run.
        resume: Go on from last.keras; ends with the weights of an undisturbed run.
        command: Command line, for the record.

    Returns:
        The `Result`.

    Raises:
        ValueError: for a configuration that does not fit data or devices.
        OSError: if the directory exists, cannot be written, or another process is at
            work in it.
        monitoring.Diverged: if the loss is not finite.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint.
        distribution.WorkerLost: if another worker of the training is gone.
    """
    return _with_settings(config, RunDirectory(run_dir), resume, command)


def _with_settings(
    config: TrainConfig, run: RunDirectory, resume: bool, command: str
) -> Result:
    """Trains with the seed and the precision of a configuration."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        return _train(config, run, resume, command)
    finally:
        keras.config.set_dtype_policy(policy)


def _difference(stored: TrainConfig, config: TrainConfig) -> str:
    old, new = stored.to_dict(), config.to_dict()
    changed = [f"{k}={new[k]!r} (was {old[k]!r})" for k in old if old[k] != new[k]]
    return (
        "A run goes on with the configuration it was started with: leave these out, or "
        f"start another run. Received: {', '.join(changed)}"
    )


def _check_devices(config: TrainConfig, replicas: int) -> None:
    """Refuses what Keras 3.15 cannot do on several replicas, and says what can."""
    if replicas == 1:
        return
    if config.batch_size % replicas:
        raise ValueError(
            "--batch_size is that of all replicas together and must be a multiple of "
            f"their number. Received: batch_size={config.batch_size}, "
            f"replicas={replicas}"
        )
    if config.xla:
        raise ValueError(
            "Keras compiles a step with XLA on one device only: leave --xla out. "
            f"Received: replicas={replicas}"
        )
    if config.steps_per_execution > 1:
        raise ValueError(
            "Keras takes several steps a call on one device only: leave "
            "--steps_per_execution out. Received: "
            f"steps_per_execution={config.steps_per_execution}, replicas={replicas}"
        )
    if config.gradient_accumulation_steps > 1:
        raise ValueError(
            "Keras accumulates gradients on one device only: leave "
            "--gradient_accumulation_steps out, as each replica takes its part of the "
            f"batch alone, or take more replicas. Received: replicas={replicas}, "
            f"gradient_accumulation_steps={config.gradient_accumulation_steps}"
        )


def _prepare(
    config: TrainConfig, run: RunDirectory, stored: TrainConfig | None, replicas: int
) -> tuple[data.ImageDataset, TrainConfig]:
    """The data, and the configuration with what follows from them, both checked."""
    dataset = data.load(
        config.dataset,
        image_size=config.image_size or None,
        channels=config.channels or None,
        data_dir=config.data_dir or None,
        seed=config.seed,
        augment=config.augment,
        corrupt_images=config.corrupt_images,
    )
    steps = dataset.steps_per_epoch(config.batch_size)
    config = building.resolve(config, dataset.info.image_shape[0], steps)
    if stored is not None and stored != config:
        raise ValueError(_difference(stored, config))
    if stored is not None:
        run.check_data(dataset.fingerprint())
    _check_devices(config, replicas)
    return dataset, config


def _train(
    config: TrainConfig, run: RunDirectory, resume: bool, command: str
) -> Result:
    # Before any operation: collectives want to be configured first.
    strategy = create_strategy(config.strategy)
    workers = Workers(strategy)
    run.writes = workers.is_chief
    with workers.told_of_loss(run.means_to_go_on), contextlib.ExitStack() as held:
        with workers.all_or_none():
            stored = run.read_config() if resume else None
            if stored is None:
                run.check_free()
            held.enter_context(run.locked())
            replicas = strategy.num_replicas_in_sync
            dataset, config = _prepare(config, run, stored, replicas)
            fingerprint = dataset.fingerprint()
        workers.check_same(
            **{"configuration": [config.to_dict(), resume], "data": fingerprint}
        )
        info, steps = dataset.info, dataset.steps_per_epoch(config.batch_size)
        with strategy.scope():
            found = None
            if stored is not None:
                found = checkpoint.load_newest(run.last, run.previous, run.writes)
            model, progress = found or (
                building.create(config, info.image_shape, info.num_classes, steps),
                Progress(0),
            )
        workers.check_same(checkpoint=dataclasses.asdict(progress))
        if stored is not None:
            run.read_tables(progress.epoch)
        else:
            run.create(config, command, fingerprint)
        if progress == Progress(0) and run.writes:  # later, kernels are others
            _print_plan(config, model, steps)
            _print_form(config, model)
        _Trainer(config, run, dataset, model, progress, workers).train()
        counted = summary(model)
        if run.writes:
            with run.writing("The summary"):
                counted.to_csv(run.path / "budget.csv")
                counted.to_json(run.path / "summary.json")
        return Result(model, run.metrics, counted, workers.index)
