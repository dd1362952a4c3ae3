"""Counts against hand-made ones; runs on every backend."""

import csv
import io
import json

import keras
import numpy as np
import pytest
import reference
from descriptors import CASES
from keras import layers, ops

import str_keras as stk
from str_keras.budget import COLUMNS, measure_sparsity, overall_sparsity


def net(case, wrap=None):
    layer = case.create()
    if wrap:
        layer = stk.SoftThreshold(layer, s_init=-2.0)
    return case.net(layer)


@pytest.mark.parametrize("form", ["dense", "sparsified", "hand-placed", "stripped"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_kind_by_its_own_geometry(case, form):
    model = net(case, wrap=form == "hand-placed")
    if form in ("sparsified", "stripped"):
        model = stk.sparsify(model, s_init=-2.0)
    if form == "stripped":
        model = stk.strip(model)
    rows = stk.summary(model).rows
    assert tuple(row.macs for row in rows) == case.macs
    layer = case.create()
    for row in rows:
        assert row.kind == type(layer).__name__
        assert row.params == np.prod(row.shape)
        assert row.bytes == 4 * row.params
        assert row.sparse_macs == row.macs // row.params * row.nonzeros
        assert row.sparse_bytes == 4 * row.nonzeros + -(-row.params // 8)
        if form in ("sparsified", "hand-placed"):
            assert row.threshold == pytest.approx(reference.sigmoid(-2.0))
        else:
            assert row.threshold is None
        assert row.reason == ""


def test_zeros_are_counted_as_the_layer_reads_them():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=True)])
    kernel = np.float32([[0.1, 0.2, 0.3]] * 2 + [[-0.5, 0.0, 0.5]] * 2)
    model.layers[0].set_weights([kernel, np.zeros(3)])
    dense = stk.summary(model)
    assert (dense.rows[0].nonzeros, dense.rows[0].params) == (10, 12)
    sparse = stk.summary(stk.sparsify(model, s_init=-1.0))  # sigmoid(-1) = 0.269
    assert sparse.rows[0].nonzeros == 6
    assert sparse.rows[0].sparsity == 0.5
    # Vectors are no kernels: a bias of zeros still counts as stored.
    assert (sparse.total.params, sparse.total.nonzeros) == (15, 9)
    assert sparse.prunable == sparse.kernels


@pytest.mark.parametrize(
    ("create", "params", "macs"),
    [
        (stk.models.ResNet50, 25_502_912, 4_089_184_256),
        (stk.models.MobileNetV1, 4_209_088, 568_740_352),
    ],
    ids=["resnet50", "mobilenetv1"],
)
def test_the_papers_networks_exactly(create, params, macs):
    total = stk.summary(create()).kernels
    assert (total.params, total.macs) == (params, macs)


def test_a_layer_used_twice_and_nested_models():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    shared = layers.Conv2D(4, 1, name="shared")
    x = keras.Input((8, 8, 3))
    y = shared(shared(inner(x)))
    model = keras.Model(x, layers.Dense(2, name="head")(layers.Flatten()(y)))
    rows = {row.path: row.macs for row in stk.summary(model).rows}
    assert rows == {
        "inner/conv/kernel": 36 * 27 * 4,
        "shared/kernel": 2 * 36 * 16,
        "head/kernel": 36 * 4 * 2,
    }
    sparse = stk.sparsify(model)
    assert {r.path: r.macs for r in stk.summary(sparse).rows} == rows
    backbone = keras.Sequential([keras.Input((8, 8, 3)), sparse, layers.Dense(3)])
    assert stk.summary(backbone).kernels.macs == sum(rows.values()) + 6


def test_einsum_labels_with_an_ellipsis_and_calls_by_keyword():
    x = keras.Input((4, 5, 6))
    last = layers.EinsumDense("...c,cd->...d", output_shape=7)
    first = layers.EinsumDense("ab...,bc->ac...", output_shape=(3, 5, 6))
    y = layers.Dense(2, name="head")(inputs=last(x))
    model = keras.Model(x, [y, first(x)])
    macs = {row.shape: row.macs for row in stk.summary(model).rows}
    assert macs == {(6, 7): 20 * 42, (7, 2): 20 * 14, (4, 3): 30 * 12}


@pytest.mark.parametrize(
    ("create", "macs"),
    [
        (lambda x: layers.Dense(3)(training=True, inputs=x), [4 * 21]),
        (lambda x: layers.LSTM(3)(training=True, sequences=x), [4 * 84, 4 * 36]),
        (lambda x: stk.SoftThreshold(layers.Dense(3))(training=True, inputs=x), [84]),
        (lambda x: net(CASES[1])(training=True, inputs=x), CASES[1].macs),
    ],
    ids=["dense", "lstm", "wrapper", "model"],
)
def test_a_call_may_be_told_more_before_its_inputs(create, macs):
    x = keras.Input((4, 7))
    rows = stk.summary(keras.Model(x, create(x))).rows
    assert [row.macs for row in rows] == list(macs)


def test_open_sizes_give_no_macs_until_they_are_named():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
    summary = stk.summary(model)
    assert summary.rows[0].macs is None and summary.kernels.macs is None
    assert " - " in str(summary)
    assert stk.summary(model, (10, 12, 3)).kernels.macs == 8 * 10 * 27 * 4
    two = keras.Model([a := keras.Input((2,)), b := keras.Input((2,))], a + b)
    with pytest.raises(ValueError, match="models of one input"):
        stk.summary(two, (2,))


@keras.saving.register_keras_serializable("test_budget")
class Scale(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight((shape[-1], 3), name="matrix")

    def call(self, x):
        return x @ self.matrix


def test_unknown_layers_are_listed_with_the_reason():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 3),
            Scale(),
            layers.GRU(4),
            layers.Dense(2),
        ]
    )
    summary = stk.summary(stk.sparsify(model))
    reasons = [row.reason.split(":")[0] for row in summary.rows]
    assert reasons == ["", "unknown layer type", "", "", ""]
    assert summary.kernels.params == 21 + 9 + 36 + 48 + 8
    assert summary.prunable.params == 21 + 36 + 48 + 8
    assert summary.kernels.macs is None
    # An embedding is read, and multiplies nothing.
    assert summary.prunable.macs == 5 * (36 + 48) + 8


def test_text_csv_and_json_say_the_same(tmp_path):
    summary = stk.summary(stk.sparsify(net(CASES[3]), s_init=-2.0))
    row = summary.rows[0]
    rows = list(csv.DictReader(io.StringIO(summary.to_csv(tmp_path / "budget.csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert (tmp_path / "budget.csv").read_text() == summary.to_csv()
    assert int(rows[0]["nonzeros"]) == row.nonzeros
    assert float(rows[0]["sparsity"]) == row.sparsity
    assert rows[0]["shape"] == "3x3x3x6"
    told = json.loads(summary.to_json(tmp_path / "budget.json"))
    assert told["layers"][0]["sparse_macs"] == row.sparse_macs
    assert told["total"]["params"] == summary.total.params
    lines = str(summary).splitlines()
    assert len({line.index(" MACs") + 5 for line in lines if " MACs" in line}) == 1
    line = next(line for line in lines if line.startswith(row.path.split("/")[0]))
    assert f"{row.nonzeros:,}" in line and f"{100 * row.sparsity:.2f} %" in line
    assert lines[-1].startswith("all weights")


def test_names_with_markup_are_printed_as_they_are():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2, name="x[bold]y")], name="m"
    )
    assert "x[bold]y" in str(stk.summary(model))


def test_measure_sparsity_is_the_summarys():
    sparse = stk.sparsify(net(CASES[12]), s_init=-2.0)
    measured, rows = measure_sparsity(sparse), stk.summary(sparse).rows
    for layer, row in zip(measured, rows, strict=True):
        assert (layer.path, layer.nonzeros, layer.params) == (
            row.path,
            row.nonzeros,
            row.params,
        )
        assert layer.threshold == row.threshold
    assert overall_sparsity(measured) == stk.summary(sparse).prunable.sparsity
    assert overall_sparsity(measure_sparsity(net(CASES[0]))) == 0


def learned_rank(kernel, recurrent):
    """W1 5x5, W2 5x6, U1 and U2 6x6, of which these ranks are above exp(s) = 0.5."""
    cell = stk.layers.FastGRNNCell(6, learn_rank=True, s_init=np.log(0.5))
    model = keras.Sequential(
        [
            keras.Input((4, 5)),
            stk.layers.FastGRNN(cell, name="rnn"),
            layers.Dense(3, name="head"),
        ]
    )
    for rank, m in (
        (kernel, cell.kernel_importance),
        (recurrent, cell.recurrent_kernel_importance),
    ):
        m.assign([0.9 if i >= m.shape[0] - rank else -0.3 for i in range(m.shape[0])])
    return model


def counts(model):
    return {
        row.path: (row.nonzeros, row.sparse_macs) for row in stk.summary(model).rows
    }


@pytest.mark.parametrize(
    ("kernel", "recurrent"), [(2, 6), (5, 3), (2, 3), (0, 6), (5, 0), (0, 0)]
)
def test_a_learned_rank_counts_as_it_does_once_it_is_folded(kernel, recurrent):
    model = learned_rank(kernel, recurrent)
    numbers = [5 * kernel, 6 * kernel, 6 * recurrent, 6 * recurrent]
    rows = stk.summary(model).rows
    assert [row.nonzeros for row in rows] == [*numbers, 18]
    assert [row.sparse_macs for row in rows] == [4 * n for n in numbers] + [18]
    assert [row.threshold for row in rows] == [*4 * [pytest.approx(0.5)], None]
    assert [row.reason for row in rows] == [*4 * [""], "not wrapped"]
    plain = stk.strip(model)
    assert counts(model) == counts(plain)
    if kernel and recurrent:  # else one rank of zeros is kept
        assert stk.summary(plain).kernels.params == sum(numbers) + 18
    measured = measure_sparsity(model)
    assert [item.nonzeros for item in measured] == numbers
    assert [item.path for item in measured] == [row.path for row in rows[:4]]
    # The budget keeps what the model keeps: folding is no reason to prune again.
    budget = stk.budget.Budget.of(model)
    assert budget.rates["rnn/recurrent_kernel_2"] == pytest.approx(1 - recurrent / 6)
    for a, b in zip(budget.apply(model).weights, plain.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_thresholds_on_the_factors_of_a_learned_rank_count_too():
    model = stk.sparsify(learned_rank(2, 3), s_init=-2.0, skip="head")
    assert counts(model) == counts(stk.strip(model))
    first = model.thresholded[0]
    assert first.kernel.path == "rnn/kernel_1"
    left = np.abs(ops.convert_to_numpy(first.kernel.variable)) > reference.sigmoid(-2.0)
    row = stk.summary(model).rows[0]
    assert row.nonzeros == np.count_nonzero(left[:, -2:]) < 10
    assert row.threshold == pytest.approx(reference.sigmoid(-2.0))
    assert measure_sparsity(model)[0].nonzeros == row.nonzeros
    # Rates of kernels as the model has them, whatever is left of their ranks.
    rule = stk.budget.erk(model, 0.5, skip="head")
    assert rule.totals(model).nonzeros == round(0.5 * (25 + 30 + 36 + 36)) + 18


def test_mixed_precision_counts_bytes_of_the_stored_kernel():
    keras.config.set_dtype_policy("mixed_float16")
    assert stk.summary(stk.sparsify(net(CASES[0]))).rows[0].bytes == 4 * 35
    keras.config.set_dtype_policy("float16")
    sparse = stk.sparsify(net(CASES[0]), s_init=-2.0)
    row = stk.summary(sparse).rows[0]
    assert row.bytes == 2 * 35
    kernel = ops.convert_to_numpy(ops.cast(sparse.thresholded[0].sparse(), "float32"))
    assert row.nonzeros == np.count_nonzero(kernel)
