"""`make_sparse_ready`: the same function in the form that sparse kernels want."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np

from str_keras.ready.aligning import align
from str_keras.ready.forms import use_known_forms
from str_keras.ready.graph import Graph
from str_keras.ready.heads import use_dense_heads
from str_keras.ready.norms import fold_norms, remarks
from str_keras.ready.report import Notes, Obstacle, ReadyReport
from str_keras.ready.rules import Rules
from str_keras.ready.tracing import build, trace
from str_keras.ready.turning import Turning
from str_keras.stripping import strip

# Rounding reaches 1e-6 of the largest output; another function is off by far more.
_TOLERANCE = 1e-3


@dataclasses.dataclass
class _Result:
    """A rewritten graph, or one that is left but for its head."""

    graph: Graph
    notes: Notes
    obstacles: list[Obstacle]
    remarks: list[Obstacle]
    turned: bool


def _rewrite(model: keras.Model) -> _Result:
    """All exact rewrites, if they bring the form about; else those of the head."""
    graph, notes = trace(model), Notes()
    _refuse_channels_first(graph)
    left, notes_left = graph.copy(), Notes()
    use_known_forms(graph, notes)
    use_dense_heads(graph, notes)
    fold_norms(graph, notes)
    turned = Turning(graph, notes).apply()
    rules = Rules(graph)
    if rules.holds:
        return _Result(graph, notes, [], remarks(graph), turned)
    use_dense_heads(left, notes_left)
    return _Result(left, notes_left, rules.obstacles, [], False)


def _refuse_channels_first(graph: Graph) -> None:
    for node in graph.nodes:
        if node.part.config.get("data_format") == "channels_first":
            raise ValueError(
                "Images must have their channels last, as .tflite files do: build the "
                "model with data_format='channels_last'. "
                f"Received: layer={node.path}, data_format='channels_first'"
            )


def _make(model: keras.Model, exact: bool) -> tuple[keras.Model, ReadyReport]:
    plain = strip(model)
    result = _rewrite(plain)
    done = Notes()
    if result.obstacles and not exact:
        result, done = _approximate(plain, result)
    changes = (*done.changes, *result.notes.changes)
    report = ReadyReport(
        name=model.name,
        ready=not result.obstacles,
        exact=all(change.exact for change in changes),
        turned=result.turned,
        changes=changes,
        obstacles=tuple(result.obstacles),
        remarks=tuple(result.remarks),
    )
    ready = build(result.graph) if changes else plain
    if changes and report.exact:
        _compare(plain, ready)
    return ready, report


def _approximate(plain: keras.Model, result: _Result) -> tuple[_Result, Notes]:
    """Paddings that fit, one after the other: each may change the extents behind it."""
    notes, model = Notes(), plain
    while True:
        aligned = align(model, notes)
        if aligned is None:
            return result, Notes()
        model = aligned
        found = _rewrite(model)
        if not found.obstacles:
            return found, notes


def _compare(model: keras.Model, ready: keras.Model) -> None:
    """Runs both on one random example.

    Raises:
        RuntimeError: if they differ by more than rounding explains.
    """
    random = np.random.default_rng(0)

    def example(x: Any) -> Any:
        shape = [n or 1 for n in x.shape]  # a free batch, or size
        if "float" in x.dtype:
            return random.normal(size=shape).astype("float32")
        return random.integers(0, 2, shape).astype(x.dtype)

    inputs = keras.tree.map_structure(example, model.input)
    pairs = [keras.tree.flatten(m(inputs, training=False)) for m in (model, ready)]
    for old, new in zip(*pairs, strict=True):
        y, z = _array(old), _array(new)
        difference, largest = np.abs(y - z).max(), np.abs(y).max()
        if np.isfinite(y).all() and not difference <= _TOLERANCE * largest:
            raise RuntimeError(
                "A rewrite changed the model's outputs, which is an error of "
                "str_keras: use the model as it is, and report it. Received: "
                f"model={model.name}, max|difference|={difference:.3g}, "
                f"max|y|={largest:.3g}"
            )


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")


def make_sparse_ready(model: keras.Model, exact: bool = True) -> keras.Model:
    """Returns the same function in the form that XNNPACK's sparse kernels want.

    Whole nets only: where a layer stands in the way that no rewrite mends, all stays as
    it is but for a head that runtimes refuse, and a warning says so;
    `stk.sparse_ready_report` lists what was done, and what stands in the way. Rewritten
    are, each with the same outputs:

    - strided convolutions that pad more at the bottom and right (Keras' "same" over
      even extents): the net is turned by 180 degrees, kernels are flipped, and the
      image is flipped once, inside; outputs with a height and width are flipped back;
    - depthwise kernels whose padding fits neither way: 5x5 with zeros around;
    - strided "same" over odd extents: `ZeroPadding2D` and "valid";
    - 1x1 convolutions that end the net on a pooled pixel: Dense;
    - batch norms behind an activation: into the 1x1 convolution that reads them;
    - separable and fully grouped convolutions, averages over the whole image, stems of
      one channel: forms that are known there.

    Nested models are opened: the layers of the result stand side by side. Layers that
    change keep their names. Constants and paddings that the converter writes in
    another form are mended in the file, by `stk.export.tflite`.

    Args:
        model: A built Functional or Sequential model, plain or sparse (it is stripped
            first), of images with the channels last and a fixed height and width. It
            is not changed.
        exact: False: where no exact rewrite exists for a padding, the windows are
            shifted by a pixel. Outputs change then: fine-tune the result.

    Returns:
        A model of plain Keras layers with the same inputs and outputs, not compiled.
        It loads where str_keras is not installed. Outputs are equal to 1e-5 of the
        largest in float32, and bit for bit where nothing was turned or folded.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if it cannot be stripped, see `stk.strip`, has a `call` of its own,
            or has its channels first.

    Warns:
        UserWarning: if the result has not the form; it says the first reason.
    """
    ready, report = _make(model, exact)
    if not report.ready:
        warnings.warn(
            f"{report.summary}; see stk.sparse_ready_report", UserWarning, stacklevel=2
        )
    return ready


def sparse_ready_report(model: keras.Model, exact: bool = True) -> ReadyReport:
    """Says layer by layer what `make_sparse_ready` does, and what stands in the way.

    Args:
        model: As of `make_sparse_ready`: the model before it. Of its result the report
            says whether anything is left to do.
        exact: Likewise.

    Returns:
        A `ReadyReport`; `print` it.

    Raises:
        TypeError: as of `make_sparse_ready`.
        ValueError: likewise.
    """
    return _make(model, exact)[1]
