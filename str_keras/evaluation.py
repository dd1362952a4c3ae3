"""Accuracy, loss, sparsity and speed of a model file, of whatever kind."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from str_keras import checkpoint, data
from str_keras.budget import summary
from str_keras.export import flatbuffer
from str_keras.export.verify import TFLiteRunner


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model does on the test images.

    Args:
        images: How many.
        top1: Share whose largest logit is the label's, in [0, 1].
        top5: Share with the label among the five largest; None below six classes.
        loss: Mean cross-entropy without label smoothing, in nats.
        sparsity: Share of zeros in the kernels as the layers read them.
        images_per_second: Of the model alone; the first batch, which compiles or
            allocates, is left out unless there is but one.
    """

    images: int
    top1: float
    top5: float | None
    loss: float
    sparsity: float
    images_per_second: float


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model file, ready to run.

    Args:
        predict: From images of `dtype` `[n, H, W, C]` to logits `[n, classes]`.
        dtype: float32: normalized images; uint8: raw pixels.
        sparsity: Share of zeros in its kernels.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    dtype: np.dtype
    sparsity: float


def _load_keras(path: pathlib.Path) -> Loaded:
    model = checkpoint.load_model(path)
    run = tf.function(lambda images: model(images, training=False))
    return Loaded(
        lambda images: run(tf.constant(images)).numpy(),
        np.dtype("float32"),
        summary(model).kernels.sparsity,
    )


def _load_saved_model(path: pathlib.Path) -> Loaded:
    try:
        loaded = tf.saved_model.load(str(path))
        run = loaded.signatures["serving_default"]
        argument = next(iter(run.structured_input_signature[1]))
        (output,) = run.structured_outputs
    except (OSError, ValueError, KeyError, StopIteration, tf.errors.OpError) as error:
        raise ValueError(
            "Not a SavedModel with a signature serving_default of one input and one "
            f"output. Received: model={path}"
        ) from error
    kernels = [v.numpy() for v in run.variables if v.shape.rank > 1]
    size = sum(kernel.size for kernel in kernels)
    zeros = size - sum(int(np.count_nonzero(kernel)) for kernel in kernels)

    def predict(images: np.ndarray, keep: Any = loaded) -> np.ndarray:
        del keep  # the signature does not hold the object that it reads
        return run(**{argument: tf.constant(images)})[output].numpy()

    return Loaded(predict, np.dtype("float32"), zeros / size if size else 0.0)


def _load_tflite(path: pathlib.Path) -> Loaded:
    kernels = flatbuffer.read_kernels(path.read_bytes())
    runner = TFLiteRunner(path)
    size = sum(kernel.size for kernel in kernels)
    nonzeros = sum(kernel.nonzeros for kernel in kernels)
    return Loaded(runner, runner.dtype, 1 - nonzeros / size if size else 0.0)


def load(path: str | os.PathLike[str]) -> Loaded:
    """Loads a .keras file, a .tflite file or the directory of a SavedModel.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is of no such kind, damaged, or does not run.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _load_saved_model(path)
    if path.suffix == ".tflite":
        return _load_tflite(path)
    if path.suffix == ".keras" or not path.exists():
        return _load_keras(path)
    raise ValueError(
        "A model is a .keras file, a .tflite file or a SavedModel's directory. "
        f"Received: model={path}"
    )


def _batches(
    dataset: data.ImageDataset, dtype: np.dtype, batch_size: int, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Test images as the model takes them: normalized, or raw pixels."""
    if dtype != np.uint8:
        test = dataset.evaluation(batch_size).unbatch().take(count).batch(batch_size)
        yield from test.as_numpy_iterator()
        return
    for start in range(0, count, batch_size):
        yield dataset.raw("test", min(batch_size, count - start), start)


def evaluate(
    model: Loaded, dataset: data.ImageDataset, batch_size: int = 128, count: int = 0
) -> Evaluation:
    """Runs a model over test images.

    Args:
        model: As of `load`.
        dataset: Its test images, prepared as the model was trained.
        batch_size: Images at once.
        count: How many; 0 takes all.

    Returns:
        The `Evaluation`.

    Raises:
        ValueError: if the model takes other images or has another number of classes.
    """
    count = min(count or dataset.info.num_test, dataset.info.num_test)
    logits, labels, seconds = [], [], []
    bar = tqdm(total=count, unit="img", unit_scale=True, leave=False, disable=None)
    for images, truth in _batches(dataset, model.dtype, batch_size, count):
        started = time.perf_counter()
        try:
            logits.append(np.asarray(model.predict(images), np.float64))
        except (ValueError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                "The model does not take the images of "
                f"{dataset.info.name}, {dataset.info.image_shape}: {reason}"
            ) from error
        seconds.append(time.perf_counter() - started)
        labels.append(truth)
        bar.update(len(truth))
    bar.close()
    scores, truth = np.concatenate(logits), np.concatenate(labels)
    if scores.ndim != 2 or scores.shape[1] != dataset.info.num_classes:
        raise ValueError(
            f"The model has outputs of shape {scores.shape[1:]}, and "
            f"{dataset.info.name} has {dataset.info.num_classes} classes."
        )
    timed = slice(1, None) if len(seconds) > 1 else slice(None)
    done = sum(map(len, labels[timed]))
    top1, top5, loss = score(scores, truth)
    speed = done / sum(seconds[timed])
    return Evaluation(len(truth), top1, top5, loss, model.sparsity, speed)


def score(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float | None, float]:
    """Top-1, top-5 and mean cross-entropy of logits.

    Args:
        logits: Float `[n, classes]`.
        labels: Integers `[n]`.

    Returns:
        Two shares in [0, 1] (the second None below six classes), and nats. Among equal
        logits the first counts as the larger, as in argmax.
    """
    order = np.argsort(-logits, axis=-1, kind="stable")
    hits = order == labels[:, None]
    top5 = float(hits[:, :5].any(-1).mean()) if logits.shape[1] > 5 else None
    largest = logits.max(-1, keepdims=True)
    sums = np.log(np.exp(logits - largest).sum(-1)) + largest[:, 0]
    own = np.take_along_axis(logits, labels[:, None].astype(int), -1)[:, 0]
    return float(hits[:, 0].mean()), top5, float((sums - own).mean())


def as_text(evaluation: Evaluation) -> str:
    """One line per figure."""
    lines = {
        "images": f"{evaluation.images:,}",
        "top-1": f"{evaluation.top1:.4f}",
        "top-5": "-" if evaluation.top5 is None else f"{evaluation.top5:.4f}",
        "loss": f"{evaluation.loss:.4f}",
        "sparsity": f"{100 * evaluation.sparsity:.2f} %",
        "images/s": f"{evaluation.images_per_second:,.0f}",
    }
    if not math.isfinite(evaluation.loss):
        lines["warning"] = "the outputs are not finite"
    return "\n".join(f"{name:<9} {value}" for name, value in lines.items())
