"""Statistics of batch normalization, estimated anew after weights have changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from str_keras import internals
from str_keras.thresholds import Tensor, ops


def recalibrate(
    model: keras.Model,
    data: Any,
    steps: int | None = None,
    batch_size: int = 128,
    verbose: bool = True,
) -> None:
    """Sets the statistics of all batch normalization to those of `data`, in place.

    For after `strip`, pruning or quantization, where kernels are no longer those that
    the moving averages saw. No weight is trained, labels are not needed, dropout is
    off; training images without augmentation will do, a few thousand of them.

    Each layer is called as in training, normalizing by its batch, and sees all of the
    data once; then
    - `moving_mean` is the mean of all its inputs, each position of each example once,
    - `moving_variance` is the mean of their squared distances from that mean (divided
      by n, not by n - 1), and so holds what batches differ by, too.

    They are no running averages: nothing of what stood there is left. Order and size
    of the batches do not matter to the first such layer on a path; a layer behind it
    reads what was normalized by batches, so large ones are better. Masked positions
    are left out, layers that are used twice see both, and frozen ones are set too.

    Args:
        model: Built, of any kind: plain, with thresholds, quantized, nested; custom
            layers are opened. It is changed only if all went well.
        data: Inputs as an array `[n, ...]`, or an iterable of batches, such as a
            `tf.data.Dataset`, a `DataLoader`, a `PyDataset` or a list: each the inputs
            alone, or a tuple of which the first are the inputs.
        steps: Batches to take; None: all.
        batch_size: Of an array.
        verbose: Whether a progress bar is shown.

    Raises:
        TypeError: if `model` is no model, or `data` none of these.
        ValueError: if it is not built or has no batch normalization, for too few
            batches, endless data without `steps`, or statistics that are not finite.

    Source: "precise" batch normalization, Wu and Johnson 2021, section 3,
    https://arxiv.org/abs/2105.07576.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"A keras.Model is wanted. Received: model={type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "The model has no weights yet: give it a keras.Input, or call it once. "
            f"Received: model={model.name}, not built"
        )
    norms = list({id(layer): layer for layer in _normalizations(model)}.values())
    if not norms:
        raise ValueError(
            "There is nothing to estimate: the model has no BatchNormalization layer "
            "(in an exported one it is folded into the kernels). "
            f"Received: model={model.name}"
        )
    batches, number = _batches(data, steps, batch_size)
    estimates = [_Estimate() for _ in norms]
    bar = keras.utils.Progbar(number, verbose=int(verbose), unit_name="batch")
    done = 0
    with _recording(norms) as record:
        recorder = _Recorder(model, record)
        for done, batch in enumerate(batches, 1):
            found = recorder.predict_on_batch(batch)
            for place, moments in zip(record.order, found, strict=True):
                estimates[place].add(*(np.asarray(m, "float64") for m in moments))
            bar.update(done)
    if not done or (steps is not None and done < steps):
        raise ValueError(
            "The data ended too soon; the model is as it was. "
            f"Received: {done} batches of {steps or 'at least 1'}"
        )
    _assign(norms, estimates)


def _normalizations(layer: keras.Layer) -> Iterator[Any]:
    for inner in internals.sublayers(layer):
        if isinstance(inner, keras.layers.BatchNormalization):
            yield inner
        else:
            yield from _normalizations(inner)


def _batches(
    data: Any, steps: int | None, batch_size: int
) -> tuple[Iterator[Any], int | None]:
    """The inputs of each batch, and how many there are if that is known."""
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is 1 or more. Received: {name}={value}")
    source: Iterable[Any]
    if hasattr(data, "shape"):
        starts = range(0, len(data), batch_size)
        source, number = (data[i : i + batch_size] for i in starts), len(starts)
    elif isinstance(data, keras.utils.PyDataset):
        found = data.num_batches
        places = itertools.count() if found is None else range(found)
        source, number = (data[i] for i in places), found
    elif isinstance(data, Iterable) and not isinstance(data, dict | str):
        source, number = data, _length(data)
    else:
        raise TypeError(
            "`data` is an array, or an iterable of batches. "
            f"Received: data={type(data).__name__}"
        )
    if steps is None and number is not None and number < 0:
        raise ValueError("The data has no end: say how many `steps` to take of it")
    if steps is not None:
        source, number = itertools.islice(iter(source), steps), steps
    inputs = (keras.utils.unpack_x_y_sample_weight(batch)[0] for batch in source)
    return inputs, number


def _length(data: Any) -> int | None:
    """Number of batches; below 0: endless; None: not known."""
    if hasattr(data, "cardinality"):  # of TensorFlow: -1 is endless, -2 not known
        number = int(data.cardinality())
        return None if number == -2 else number
    try:
        return len(data)
    except TypeError:
        return None


@dataclass
class _Record:
    """What a call of a model left: moments, and which layer each is of."""

    moments: list[tuple[Tensor, Tensor, Tensor]]
    order: list[int]


class _Recorder(keras.Model):
    """A model whose outputs are the moments of what its normalizations read.

    A model, because Keras compiles its call on every backend.
    """

    def __init__(self, model: keras.Model, record: _Record):
        super().__init__(name="recalibration", autocast=False)
        self.model = model
        self.__dict__["record"] = record
        self.built = True

    def call(self, inputs: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Count, mean and variance, at each call of a normalization."""
        record = self.__dict__["record"]
        record.moments.clear()
        record.order.clear()
        self.model(inputs, training=False)
        return list(record.moments)


@contextmanager
def _recording(norms: list[Any]) -> Iterator[_Record]:
    """Lets layers normalize by their batch, and record its moments."""
    record = _Record([], [])
    before = [layer.__dict__.get("call") for layer in norms]
    try:
        for place, layer in enumerate(norms):
            layer.__dict__["call"] = _recorded(layer, place, record)
        yield record
    finally:
        for layer, call in zip(norms, before, strict=True):
            del layer.__dict__["call"]
            if call is not None:
                layer.__dict__["call"] = call


def _recorded(layer: Any, place: int, record: _Record) -> Any:
    def call(inputs: Tensor, training: Any = None, mask: Any = None) -> Tensor:
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        inputs = ops.cast(inputs, dtype)
        count, mean, variance = _moments(inputs, layer.axis, mask)
        record.moments.append((count, mean, variance))
        record.order.append(place)
        outputs = ops.batch_normalization(
            inputs,
            mean,
            variance,
            layer.axis,
            offset=ops.cast(layer.beta, dtype) if layer.center else None,
            scale=ops.cast(layer.gamma, dtype) if layer.scale else None,
            epsilon=layer.epsilon,
        )
        return ops.cast(outputs, layer.compute_dtype)

    return call


def _moments(inputs: Tensor, axis: int, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Number of positions, mean and variance over all axes but one, `[channels]`."""
    rank = len(inputs.shape)
    axes = [a for a in range(rank) if a != axis % rank]
    if mask is None:
        sizes, number = ops.shape(inputs), 1
        for a in axes:
            number = number * sizes[a]
        count = ops.cast(ops.convert_to_tensor(number), inputs.dtype)
        mean = ops.mean(inputs, axes, keepdims=True)
        variance = ops.mean(ops.square(inputs - mean), axes)
        return count, ops.reshape(mean, (-1,)), variance
    weights = ops.expand_dims(ops.cast(mask, inputs.dtype), -1)
    count = ops.sum(weights)
    mean = ops.sum(inputs * weights, axes, keepdims=True) / ops.maximum(count, 1)
    squares = ops.square(inputs - mean) * weights
    variance = ops.sum(squares, axes) / ops.maximum(count, 1)
    return count, ops.reshape(mean, (-1,)), variance


class _Estimate:
    """Mean and variance of all batches, float64: Chan's update."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, np.zeros(()), np.zeros(())

    def add(self, count: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
        if not count:  # all of it is masked
            return
        share = count / (self.count + count)
        moved = mean - self.mean
        self.squares = self.squares + variance * count
        self.squares = self.squares + moved**2 * self.count * share
        self.mean = self.mean + moved * share
        self.count += float(count)


def _assign(norms: list[Any], estimates: list[_Estimate]) -> None:
    found = [(n, e) for n, e in zip(norms, estimates, strict=True) if e.count]
    for layer, estimate in found:
        if not np.isfinite([estimate.mean, estimate.squares]).all():
            raise ValueError(
                "The inputs of a normalization are not finite; the model is as it was. "
                f"Received: layer={layer.name}"
            )
    for layer, estimate in found:
        layer.moving_mean.assign(estimate.mean)
        layer.moving_variance.assign(estimate.squares / estimate.count)
