"""Budgets: the published figures, what they do to a model, their files."""

import copy
import csv
import json
import pathlib
import pickle
import re

import keras
import numpy as np
import pytest
from descriptors import CASES
from keras import layers, ops

import str_keras as stk
from str_keras.budget import (
    Budget,
    Summary,
    erk,
    num_kept,
    published,
    read,
    summary,
    uniform,
)

# Overall percent of zeros: non-zeros and millions of MACs.
ROWS = {
    "79.55": (5_216_259, 766.54),
    "81.27": (4_775_866, 705.29),
    "87.70": (3_136_008, 401.62),
    "90.23": (2_492_045, 342.60),
    "90.55": (2_409_402, 341.45),
    "94.80": (1_326_562, 181.58),
    "95.03": (1_269_016, 158.57),
    "95.15": (1_237_702, 162.19),
    "96.11": (991_719, 126.89),
    "96.53": (883_922, 117.15),
    "97.78": (565_147, 80.12),
    "98.05": (497_978, 72.84),
    "98.22": (454_278, 68.25),
    "98.79": (307_766, 53.56),
    "98.98": (259_835, 47.32),
    "99.10": (229_602, 43.68),
}
# Percent of zeros of ERK at 90 %, rounded by the authors of STR to whole ones
# (budgets/SparsityDistributions_90_ResNet50.csv in their repository), in order.
ERK_90 = [
    *(58, 0, 82, 4, 4, 4, 82, 4, 4, 82, 4),
    *(43, 91, 52, 71, 52, 91, 52, 52, 91, 52, 52, 91, 52),
    *(71, 96, 76, 86, 76, 96, 76, 76, 96, 76, 76, 96, 76, 76, 96, 76, 76, 96, 76),
    *(86, 98, 88, 93, 88, 98, 88, 88, 98, 88, 93),
]


@pytest.fixture(scope="module")
def resnet50():
    keras.utils.set_random_seed(0)
    return stk.models.ResNet50()


def small(*shapes):
    """Dense layers without bias of these shapes in a row, named a, b, c."""
    stack = [keras.Input((shapes[0][0],))]
    for name, shape in zip("abc", shapes, strict=False):
        stack.append(layers.Dense(shape[1], use_bias=False, name=name))
    return keras.Sequential(stack)


def kernel(model, name):
    return ops.convert_to_numpy(model.get_layer(name).kernel)


def test_the_published_budgets_are_the_networks_layers_in_order(resnet50):
    names = published()
    assert names == tuple(f"resnet50@{percent}" for percent in ROWS)
    rows = summary(resnet50).rows
    for name in names:
        assert [f"{path}/kernel" for path in published(name).rates] == [
            row.path for row in rows
        ]
        assert "2002.03231" in published(name).source
    path = pathlib.Path(stk.__file__).parent / "budget" / "resnet50_published.csv"
    with path.open(newline="") as file:
        counts = [(int(r["params"]), int(r["macs"])) for r in csv.DictReader(file)]
    assert counts == [(row.params, row.macs) for row in rows]
    assert published("resnet50@94.8") is published("resnet50@94.80")
    # A figure of the paper's table by hand: layer4.2.conv3 at 90.23 %.
    assert published("resnet50@90.23").rates["layer4_2_conv3"] == 0.8029
    for wrong in ("resnet50@90", "resnet18@90.23", "90.23", ""):
        with pytest.raises(ValueError, match=r"only resnet50@79\.55, .*Received"):
            published(wrong)


@pytest.mark.parametrize("percent", ROWS)
def test_the_published_totals(resnet50, percent):
    total = published(f"resnet50@{percent}").totals(resnet50)
    nonzeros, macs = ROWS[percent]
    assert (total.params, total.macs) == (25_502_912, 4_089_184_256)
    assert total.nonzeros == nonzeros
    assert 100 * total.sparsity == pytest.approx(float(percent), abs=0.01)
    assert total.sparse_macs / 1e6 == pytest.approx(macs, abs=0.005001)
    assert total.bytes == 4 * total.params
    assert total.sparse_bytes - 4 * nonzeros == pytest.approx(total.params / 8, abs=54)


def test_uniform_and_erk_at_90_percent(resnet50):
    total = uniform(resnet50, 0.9).totals(resnet50)
    assert total.sparse_macs == round(0.1 * 4_089_184_256)
    assert f"{total.sparse_macs / 1e6:.1f}" == "408.9"
    budget = erk(resnet50, 0.9)
    total = budget.totals(resnet50)
    assert total.nonzeros == round(0.1 * total.params)
    assert total.sparse_macs / 1e6 == pytest.approx(988.9, abs=0.05)
    assert total.sparse_macs / 1e6 == pytest.approx(990.5, rel=0.005)
    percent = 100 * np.array(list(budget.rates.values()))
    np.testing.assert_allclose(percent, ERK_90, atol=0.5)


def test_a_published_budget_applied_to_its_network(resnet50):
    budget = published("resnet50@90.23")
    before = summary(resnet50)
    pruned = budget.apply(resnet50)
    assert summary(resnet50) == before
    total = summary(pruned).kernels
    expected = budget.totals(resnet50)
    assert abs(total.nonzeros - expected.nonzeros) <= 27  # half a weight per kernel
    assert total.sparse_macs == pytest.approx(expected.sparse_macs, abs=2e4)
    for row in summary(pruned).rows:
        rate = budget.rates[row.path.removesuffix("/kernel")]
        assert row.nonzeros == round(row.params * (1 - rate))


def rigl(shapes, sparsity):
    """RigL's loop as published: only the densest kernels become dense at a time."""
    dense = set()
    while True:
        ratio = {k: sum(s) / np.prod(s) for k, s in shapes.items() if k not in dense}
        if not ratio:
            return dict.fromkeys(shapes, 0.0)
        right = (1 - sparsity) * sum(np.prod(shapes[k]) for k in ratio)
        right -= sparsity * sum(np.prod(shapes[k]) for k in dense)
        epsilon = right / sum(ratio[k] * np.prod(shapes[k]) for k in ratio)
        top = max(ratio.values())
        if epsilon * top <= 1:
            return {k: 1 - epsilon * ratio[k] if k in ratio else 0.0 for k in shapes}
        dense |= {k for k in ratio if ratio[k] == top}


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_erk_is_rigls(sparsity):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, name="stem"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(40, 1, name="pointwise"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="head"),
        ]
    )
    rows = summary(model).rows
    wanted = rigl({row.path: row.shape for row in rows}, sparsity)
    budget = erk(model, sparsity)
    assert list(budget.rates) == [row.path for row in rows]
    for path, rate in wanted.items():
        assert budget.rates[path] == pytest.approx(rate, abs=1e-9)
    assert budget.totals(model).sparsity == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize("rule", [uniform, erk])
def test_skipped_layers_stay_dense_and_the_others_have_the_sparsity(rule):
    model = small((30, 40), (40, 50), (50, 2))
    budget = rule(model, 0.8, skip="c")
    assert budget.rates["c/kernel"] == 0
    zeros = 1200 * budget.rates["a/kernel"] + 2000 * budget.rates["b/kernel"]
    assert zeros == pytest.approx(0.8 * 3200)
    sparse = stk.sparsify(model, s_init=-2.0)
    assert rule(sparse, 0.8, skip="c") == budget
    assert summary(budget.apply(sparse)).rows[2].nonzeros <= 100
    for wrong in (1.1, -0.1, 90, float("nan"), True, "0.9"):
        with pytest.raises(ValueError, match=r"0 to 1 .*Received: sparsity="):
            rule(model, wrong)
    with pytest.raises(ValueError, match="No kernel is left"):
        rule(model, 0.5, skip=["a", "b", "c"])
    with pytest.raises(ValueError, match="near it"):
        rule(model, 0.5, skip="cc")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_apply_keeps_the_largest_of_each_kind_of_layer(case):
    model = case.net()
    before = [np.array(w) for w in model.get_weights()]
    pruned = uniform(model, 0.6875).apply(model)  # exact in binary
    for old, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weight)
    assert [w.path.split("/")[-1] for w in pruned.weights] == [
        w.path.split("/")[-1] for w in model.weights
    ]
    counted = {tuple(row.shape): row.nonzeros for row in summary(pruned).rows}
    for variable, old in zip(pruned.weights, before, strict=True):
        new = ops.convert_to_numpy(variable)
        if old.ndim < 2 or variable.name == "bias":
            np.testing.assert_array_equal(new, old)
            continue
        assert np.count_nonzero(new) == round(0.3125 * old.size) == counted[old.shape]
        kept = new != 0
        np.testing.assert_array_equal(new[kept], old[kept])
        assert np.abs(old[kept]).min() >= np.abs(old[~kept]).max()


@pytest.mark.parametrize(
    ("rate", "kept"), [(0, 12), (0.25, 9), (0.9, 1), (0.999, 1), (1, 0)]
)
def test_the_count_is_exact_with_ties(rate, kept):
    model = small((3, 4))
    model.set_weights([np.float32([[-2, 2, 2, 2], [2, -2, 2, 2], [2, 2, 2, 2]])])
    values = kernel(Budget("", {"a": rate}).apply(model), "a").ravel()
    assert num_kept(12, rate) == kept
    assert np.count_nonzero(values) == kept == np.count_nonzero(values[:kept])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes(dtype):
    keras.config.set_dtype_policy(dtype)
    pruned = uniform(model := small((16, 20)), 0.75).apply(model)
    (row,) = summary(pruned).rows
    assert (row.nonzeros, row.bytes) == (80, 320 * (8 if dtype == "float64" else 2))
    assert pruned.weights[0].dtype == dtype


def test_a_sparse_model_is_stripped_first_and_never_gains_weights():
    model = stk.sparsify(small((20, 30), (30, 4)), s_init=-2.0)  # sigmoid: 0.119
    before, after = Budget.of(model), Budget("", {"a": 0.9, "b/kernel": 0.0})
    plain = stk.strip(model)
    assert 0 < before.rates["a/kernel"] < 0.9
    assert before == Budget(
        plain.name, Budget.of(plain).rates, f"measured of the model {plain.name}"
    )
    pruned = after.apply(model)
    assert not any(isinstance(layer, stk.SoftThreshold) for layer in pruned.layers)
    assert np.count_nonzero(kernel(pruned, "a")) == 60
    np.testing.assert_array_equal(kernel(pruned, "b"), kernel(plain, "b"))
    # Less sparse than it is already: nothing is zeroed, nothing comes back.
    same = Budget("", {"a": 0.01, "b": 0.01}).apply(plain)
    np.testing.assert_array_equal(kernel(same, "a"), kernel(plain, "a"))
    # Measured rates give back their counts exactly.
    again = before.apply(small((20, 30), (30, 4)))
    assert [r.nonzeros for r in summary(again).rows] == [
        r.nonzeros for r in summary(model).rows
    ]


def test_names_of_kernels_layers_and_nested_models():
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(6, 3, name="separable"),
            layers.Conv2D(4, 1, name="last"),
        ],
        name="encoder",
    )
    x = keras.Input((8, 8, 3))
    y = layers.Dense(2, name="head")(layers.Flatten()(inner(x)))
    model = keras.Model(x, y)
    found = Budget(
        "", {"encoder": 0.5, "encoder/separable/depthwise_kernel": 0.1, "head": 0.9}
    ).match(model)
    assert found == {
        "encoder/separable/depthwise_kernel": 0.1,
        "encoder/separable/pointwise_kernel": 0.5,
        "encoder/last/kernel": 0.5,
        "head/kernel": 0.9,
    }
    pruned = Budget("", found).apply(model)
    assert [row.nonzeros for row in summary(pruned).rows] == [
        num_kept(row.params, found[row.path]) for row in summary(model).rows
    ]


def test_a_misfit_names_all_layers_at_once():
    model = small((3, 4), (4, 5), (5, 2))
    budget = Budget("mine", {"a": 0.5, "bb": 0.5, "conv1": 0.5})
    for use in (budget.apply, budget.match, budget.totals):
        with pytest.raises(ValueError, match="do not fit") as error:
            use(model)
        said = str(error.value)
        assert "no bb (near it: b), conv1: rename" in said
        assert "no rate for b/kernel, c/kernel: add them" in said
        assert said.endswith(f"budget='mine', model={model.name!r}")
    some = Budget("some", {"b": 0.5})
    assert some.match(model, strict=False) == {"b/kernel": 0.5}
    assert some.totals(model, strict=False).nonzeros == 12 + 10 + 10
    pruned = some.apply(model, strict=False)
    assert [row.nonzeros for row in summary(pruned).rows] == [12, 10, 10]
    with pytest.raises(ValueError, match="no bb"):  # a typing error never passes
        Budget("", {"a": 0.1, "bb": 0.5}).apply(model, strict=False)


def test_totals_of_open_sizes():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, name="conv")]
    )
    budget = Budget("", {"conv": 0.75})
    assert budget.totals(model).sparse_macs is None
    assert budget.totals(model, (10, 12, 3)).sparse_macs == 8 * 10 * 27


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda model: Subclassed(), ValueError, "Functional or Sequential"),
        (lambda model: model.layers[0], TypeError, "keras.Model is wanted"),
        (
            lambda model: model.get_layer("a").quantize("int8"),
            ValueError,
            "then quantize.*a/",
        ),
        (
            lambda model: model.get_layer("a").enable_lora(1),
            ValueError,
            "merge it first.*a/",
        ),
        (
            lambda model: model.set_weights([np.full((3, 4), np.nan)]),
            ValueError,
            "NaN or infinity.*kernel=a/kernel",
        ),
    ],
    ids=["subclassed", "layer", "quantized", "lora", "nan"],
)
def test_models_that_cannot_be_pruned(prepare, error, message):
    model = small((3, 4))
    other = prepare(model)
    with pytest.raises(error, match=message):
        Budget("", {"a": 0.5}).apply(model if other is None else other)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_round_trip(tmp_path, suffix):
    budget = Budget("mine", {"b": 1 / 3, "a/kernel": 0.0, 'odd "name", é': 1}, "a test")
    path = tmp_path / f"mine.{suffix}"
    text = getattr(budget, f"to_{suffix}")(path)
    assert path.read_text(encoding="utf-8") == text
    again = read(path)
    assert list(again.rates.items()) == list(budget.rates.items())
    assert again.name == "mine"
    if suffix == "json":
        assert again == budget
    else:
        assert again.source == str(path)
        assert text.splitlines()[:2] == ["path,sparsity", f"b,{1 / 3}"]
    assert pickle.loads(pickle.dumps(budget)) == copy.deepcopy(budget) == budget
    assert len({budget, again}) == (1 if suffix == "json" else 2)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_models_table_is_a_budget(tmp_path, suffix):
    table: Summary = summary(stk.sparsify(small((20, 30), (30, 4)), s_init=-2.0))
    path = tmp_path / f"budget.{suffix}"
    getattr(table, f"to_{suffix}")(path)
    budget = Budget.read(path)
    assert budget.rates == {row.path: row.sparsity for row in table.rows}
    assert budget.name == (table.name if suffix == "json" else "budget")
    assert sum(budget.rates.values()) > 0


ROW = {"path": "a", "sparsity": 0.5}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.csv", "", "needs rates"),
        ("b.csv", "path,sparsity\n", "needs rates"),
        ("b.csv", "path,sparsity\na,0.5\na,0.6\n", "two rates.*Received: a"),
        ("b.csv", "path,sparsity\na,0.5\na/kernel,0.6\n", "two rates.*'a/kernel'"),
        ("b.csv", "path,sparsity\na,90\n", r"divide percent by 100.*a=90\.0"),
        ("b.csv", "path,sparsity\na,-0.1\n", r"0 to 1.*a=-0\.1"),
        ("b.csv", "path,sparsity\na,nan\n", "0 to 1.*a=nan"),
        ("b.csv", "path,sparsity\na,90%\n", "0 to 1.*a='90%' in row 1"),
        ("b.csv", "path,sparsity\na,\n", "0 to 1.*a='' in row 1"),
        ("b.csv", "path,sparsity\na,1_0e-1\n", "0 to 1.*a='1_0e-1' in row 1"),
        ("b.csv", "path,sparsity\n,0.5\n", "of a layer: name it.*path=''"),
        ("b.csv", "path,sparsity\n a,0.5\n ,0.5\n", "name it.*path=' '"),
        ("b.csv", "path,sparsity\na\n", "row 1 has not as many cells"),
        ("b.csv", "path,sparsity\na,0.5,1\n", "row 1 has not as many cells"),
        ("b.csv", "path,rate\na,0.5\n", "no sparsity.*Received: path, rate"),
        ("b.csv", "path,sparsity,rate\na,0.5,1\n", "remove it.*Received: rate"),
        ("b.csv", "path,sparsity,sparsity\na,0.5,1\n", "a column stands twice"),
        ("b.csv", 'path,sparsity\n"a,0.5\n', "no CSV"),
        ("b.csv", b"path,sparsity\n\xff,0.5\n", "utf-8"),
        ("b.json", "{", "no JSON"),
        ("b.json", "[]", '"layers"'),
        ("b.json", {"layers": [1]}, '"layers"'),
        ("b.json", {"layers": []}, "needs rates"),
        ("b.json", {"layers": [ROW, ROW]}, "two rates"),
        ("b.json", {"layers": [{**ROW, "sparsity": True}]}, "a=True"),
        ("b.json", {"layers": [{**ROW, "sparsity": None}]}, "a=None"),
        ("b.json", {"layers": [{**ROW, "path": 3}]}, "path=3"),
        ("b.json", {"layers": [{**ROW, "rate": 1}]}, "remove it.*rate"),
        ("b.json", {"layers": [{**ROW, "path": ""}]}, "name it.*path=''"),
        ("b.json", {"layers": [{**ROW, "sparsity": "1_0e-1"}]}, "a='1_0e-1'"),
        ("b.json", {"layers": [{**ROW, "sparsity": 10**400}]}, "0 to 1.*a=inf"),
        (
            "b.json",
            f'{{"layers": [{{"path": "a", "sparsity": 1{"0" * 5000}}}]}}',
            "0 to 1.*a=inf",
        ),
        (
            "b.json",
            '{"layers": [{"path": "a", "sparsity": 0.1, "sparsity": 0.9}]}',
            "stands twice.*key='sparsity'",
        ),
        (
            "b.json",
            '{"layers": [], "layers": [{"path": "a", "sparsity": 0.1}]}',
            "stands twice.*key='layers'",
        ),
        ("b.json", "[" * 100_000, "nested too deeply"),
        ("b.json", '{"name":' * 100_000, "nested too deeply"),
        ("b.txt", "path,sparsity\na,0.5\n", "a .csv or a .json file"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert re.match(re.escape(str(path)), str(error.value))
    assert "\n" not in str(error.value)


def test_suffixes_in_capitals(tmp_path):
    budget = Budget("mine", {"a": 0.5}, "a test")
    budget.to_csv(tmp_path / "MINE.CSV")
    budget.to_json(tmp_path / "mine.Json")
    assert read(tmp_path / "MINE.CSV").rates == budget.rates
    assert read(tmp_path / "mine.Json") == budget


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.csv")


def test_bad_rates():
    with pytest.raises(ValueError, match=r"in one line\. Received: path=''"):
        Budget("", {"": 0.5})
    with pytest.raises(TypeError, match="named by paths"):
        Budget("", {3: 0.5})
    for wrong in ("0.5", None, True, 1.01, float("inf")):
        with pytest.raises(ValueError, match="0 to 1"):
            Budget("", {"a": wrong})


def test_public_names():
    assert stk.budget.read == Budget.read
    for name in stk.budget.__all__:
        assert getattr(stk.budget, name) is not None
