"""`make_sparse_ready`: the same outputs, and a form that check_sparse calls sparse."""

import re

import keras
import numpy as np
import pytest
import sparse_cases
from sparse_models import conv, depthwise, network, prune, samples

import str_keras as stk

layers, MODELS = keras.layers, sparse_cases.MODELS


def same(x, filters=16):
    """A stem as Keras' own networks have it: "same" over even extents."""
    return conv(x, filters, 3, 2, "same", name="stem")


def norm_between(x):
    """Behind an activation: the converter leaves it as two operators."""
    return conv(layers.BatchNormalization()(x), 200, name="after")


NETS = {
    "same": lambda: network(
        stem=same, second=lambda x: depthwise(x, 3, 2, padding="same")
    ),
    "same, 5x5": lambda: network(
        stem=same, second=lambda x: depthwise(x, 5, 2, padding="same")
    ),
    "same, odd": lambda: network(size=97, stem=same),
    "batch norm": lambda: network(inside=norm_between),
    "separable": lambda: network(
        inside=lambda x: layers.SeparableConv2D(40, 3, padding="same")(x)
    ),
    "average over all": lambda: network(
        head=lambda x: layers.Dense(10)(
            layers.Flatten()(layers.AveragePooling2D(12)(x))
        )
    ),
}
# Part of what was done.
MENDED = {
    "stem padding": "kernel turned",
    "gray": "the one channel three times",
    "depthwise dilated": "3x3 dilated -> 5x5",
    "depthwise same": "3x3 -> 5x5, with zeros",
    "1x1 head": "1x1 after pooling -> Dense",
    "same": "kernel turned; zeros (0, 1) -> 1 on every side",
    "same, 5x5": "zeros (1, 2) -> 2 on every side",
    "same, odd": "its padding as a layer",
    "odd extents": "",  # the exporter does it in the file
    "batch norm": "goes into after",
    "separable": "separable -> depthwise and 1x1",
    "average over all": "average of all pixels -> global",
}
# Keras does not copy Lambda layers of Python lambdas.
LAMBDAS = {
    *("maximum", "sum", "averaged over channels too", "undelegated"),
    *("constant second", "constant of rank 0", "pooled by rows", "sum with pooled"),
}
COPIED = [name for name in sparse_cases.MODELS if name not in LAMBDAS]


def outputs(model, inputs):
    return np.asarray(model(inputs, training=False))


@pytest.mark.parametrize("case", MENDED)
def test_mended_with_the_same_outputs(tmp_path, case):
    made = NETS[case]() if case in NETS else MODELS[case][0]()
    model = prune(made)
    before = [weight.numpy() for weight in model.weights]
    ready, report = stk.make_sparse_ready(model), stk.sparse_ready_report(model)
    assert report.ready and report.exact and not report.obstacles
    assert any(MENDED[case] in change.what for change in report.changes) or (
        case == "odd extents" and not report.changes
    )
    assert report.turned == any("turned" in change.what for change in report.changes)
    for change in report.changes:
        assert change.path in str(report) and change.what in str(report)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)

    assert ready.input_shape == model.input_shape
    inputs, found = samples(model), stk.export.check_sparse(ready)
    y, z = outputs(model, inputs), outputs(ready, inputs)
    assert np.abs(y - z).max() <= 1e-5 * np.abs(y).max()
    assert found.is_sparse and found.sparse_share == 1
    again = stk.sparse_ready_report(ready)
    assert again.ready and not again.changes  # nothing is left to do
    ready.save(tmp_path / "ready.keras")
    loaded = keras.models.load_model(tmp_path / "ready.keras")
    np.testing.assert_array_equal(outputs(loaded, inputs), z)


@pytest.mark.parametrize("case", COPIED)
def test_what_is_ready_is_what_qualifies(case):
    """The rules on layers agree with those on files, see test_check_sparse.py."""
    model, (_, kind, _) = sparse_cases.model(case), MODELS[case]
    report = stk.sparse_ready_report(model)
    assert report.ready == (kind == "sparse" or case in MENDED)
    assert bool(report.changes) == (case in MENDED and case != "odd extents")
    if report.ready:
        return
    first = report.obstacles[0]
    assert first.reason and first.mend and first.reason in report.summary
    with pytest.warns(UserWarning, match=re.escape(report.summary)):
        left = stk.make_sparse_ready(model)
    inputs = samples(model)
    np.testing.assert_array_equal(outputs(left, inputs), outputs(model, inputs))


def test_paddings_that_no_rewrite_mends_are_shifted_on_demand():
    model = sparse_cases.model("depthwise unpadded")
    report = stk.sparse_ready_report(model, exact=False)
    assert report.ready and not report.exact
    assert "outputs CHANGE: fine-tune" in report.summary
    ready = stk.make_sparse_ready(model, exact=False)
    assert stk.export.check_sparse(ready).is_sparse
    shapes = [[tuple(w.shape) for w in m.weights] for m in (model, ready)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_a_network_of_keras_applications():
    """All of them: `python -m experiments.ready`."""
    net = keras.applications.MobileNet(
        (64, 64, 3), alpha=0.25, weights=None, classifier_activation=None
    )
    model = prune(net)
    assert not stk.export.check_sparse(model).is_sparse
    ready = stk.make_sparse_ready(model)
    found = stk.export.check_sparse(ready)
    assert found.is_sparse and found.sparse_share == 1
    inputs = samples(model)
    y, z = outputs(model, inputs), outputs(ready, inputs)
    assert np.abs(y - z).max() <= 1e-5 * np.abs(y).max()


@pytest.mark.parametrize("function", [stk.make_sparse_ready, stk.sparse_ready_report])
def test_what_is_refused(function):
    with pytest.raises(TypeError, match="Received"):
        function("model.keras")
    first = keras.Sequential(
        [keras.Input((3, 8, 8)), layers.Conv2D(4, 3, data_format="channels_first")]
    )
    with pytest.raises(ValueError, match=r"channels last.*Received: layer="):
        function(first)
