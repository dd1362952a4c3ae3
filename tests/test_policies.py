"""What a policy leaves dense, against what XNNPACK and files make of it."""

import keras
import numpy as np
import pytest
from keras import layers

import str_keras as stk
from str_keras import building
from str_keras.config import TrainConfig, check_used
from str_keras.policies import POLICIES, why_dense
from str_keras.selection import find_kernels, select

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the exporter is TensorFlow's"
)


def mixed():
    """A net that qualifies for sparse kernels, with what does not run on them."""
    inputs = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="stem")(x)
    x = layers.SeparableConv2D(24, 3, padding="same", name="separable")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(64, 1, activation="relu", name="pointwise")(x)
    x = layers.Dense(40, activation="relu", name="on_images")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(100, name="classifier")(x), name="mixed")


FASTER = {"separable/pointwise_kernel", "pointwise/kernel", "on_images/kernel"}


def choice(model, policy):
    kernels, passed = select(model, policy=policy)
    return {kernel.path for kernel in kernels}, {p.path: p.reason for p in passed}


def test_latency_prunes_what_runs_on_sparse_kernels():
    kernels, passed = choice(mixed(), "latency")
    assert kernels == FASTER
    assert passed == {
        "stem/kernel": "policy latency: convolutions of 3x3 run dense",
        "separable/depthwise_kernel": "policy latency: its depthwise part runs dense",
        "depthwise/kernel": "policy latency: DepthwiseConv2D runs dense",
        "classifier/kernel": "policy latency: Dense runs sparse on images alone",
    }


def headed(kind):
    """A net that qualifies, and ends in one of the usual heads on pooled features."""
    inputs = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="stem")(x)
    x = layers.Conv2D(64, 1, activation="relu", name="pointwise")(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    if kind == "squeeze":
        x = layers.Conv2D(32, 1, activation="relu", name="reduce")(pooled)
        x = layers.Conv2D(64, 1, activation="sigmoid", name="expand")(x)
        x = layers.Multiply()([layers.Conv2D(64, 1, name="scaled")(pooled), x])
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(40, name="classifier")(x))
    if kind == "two convolutions":
        pooled = layers.Conv2D(96, 1, name="features")(pooled)
        pooled = layers.Activation("hard_swish")(pooled)
    relu = layers.ReLU(6.0)  # called twice: no way through it leads back
    create = layers.Dense if kind == "Dense" else layers.Conv2D
    x = create(40, *([1] if create is layers.Conv2D else []), name="classifier")(
        layers.Dropout(0.1)(pooled)
    )
    return keras.Model(inputs, layers.Flatten()(relu(relu(x))))


NETS = {
    "mixed": (mixed, FASTER),
    "convolution": (lambda: headed("convolution"), {"pointwise/kernel"}),
    "Dense": (lambda: headed("Dense"), {"pointwise/kernel"}),
    "two convolutions": (
        lambda: headed("two convolutions"),
        {"pointwise/kernel", "features/kernel", "classifier/kernel"},
    ),
}


@tensorflow_only
@pytest.mark.parametrize("net", NETS)
def test_latency_prunes_what_xnnpack_counts(tmp_path, net):
    """All weights of the cluster that is turned to NCHW are pruned, and no others."""
    create, paths = NETS[net]
    model = create()
    assert choice(model, "latency")[0] == paths
    budget = stk.budget.uniform(model, 0.9, policy="latency")
    stk.export.tflite(budget.apply(model), tmp_path / "x.tflite", sparse=True)
    clusters = stk.export.check_sparse(tmp_path / "x.tflite").clusters
    (cluster,) = (cluster for cluster in clusters if cluster.sparse)
    pruned = [k.variable for k in select(model)[0] if budget.rates[k.path]]
    sizes = [int(np.prod(variable.shape)) for variable in pruned]
    assert cluster.params == sum(sizes)
    assert cluster.zeros == sum(round(0.9 * size) for size in sizes)


def test_latency_prunes_what_squeezes_and_excites():
    kernels, passed = choice(headed("squeeze"), "latency")
    names = ("pointwise", "reduce", "expand", "scaled")
    assert kernels == {f"{name}/kernel" for name in names}
    assert passed["classifier/kernel"].endswith("Dense runs sparse on images alone")


@pytest.mark.parametrize(
    ("layer", "shape", "faster"),
    [
        (layers.Conv2D(8, 1), (4, 4, 8), True),
        (layers.Conv2D(8, 1, strides=2), (4, 4, 8), False),
        (layers.Conv2D(8, 1, groups=2), (4, 4, 8), False),
        (layers.Conv2D(8, (1, 3)), (4, 4, 8), False),
        (layers.Conv2DTranspose(8, 1), (4, 4, 8), False),
        (layers.Conv1D(8, 1), (4, 8), False),
        (layers.Conv3D(8, 1), (4, 4, 4, 8), False),
        (layers.Dense(8), (4, 4, 8), True),
        (layers.Dense(8), (4, 8), False),
        (layers.EinsumDense("bhwc,cd->bhwd", (4, 4, 8)), (4, 4, 8), False),
        (layers.LSTM(8), (4, 8), False),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_latency_by_layer(layer, shape, faster):
    inputs = keras.Input(shape)
    layer(inputs)
    for kernel in find_kernels(layer, "layer"):
        shape, axes = tuple(kernel.variable.shape), kernel.filter_axes
        reason = why_dense("latency", layer, kernel.variable.name, shape, axes)
        assert (reason == "") == faster
        assert why_dense(None, layer, kernel.variable.name, shape, axes) == ""


def test_a_shared_layer_is_pruned_if_all_its_uses_are_on_images():
    shared, both = layers.Dense(8), layers.Dense(8)
    image, row = keras.Input((4, 4, 8)), keras.Input((8,))
    outputs = [shared(image), shared(shared(image)), both(image), both(row)]
    model = keras.Model([image, row], outputs)
    assert choice(model, "latency")[0] == {f"{shared.name}/kernel"}


FORMS = {
    "pointwise": (lambda: layers.Conv2D(64, 1), (4, 4, 64)),
    "small": (lambda: layers.Conv2D(8, 1), (4, 4, 8)),
    "3x3": (lambda: layers.Conv2D(32, 3), (4, 4, 16)),
    # A row a weight: where rows begin takes more than the zeros.
    "3x3 of one channel": (lambda: layers.Conv2D(400, 3), (4, 4, 1)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (4, 4, 128)),
    "small depthwise": (lambda: layers.DepthwiseConv2D(3), (4, 4, 8)),
    "transposed": (lambda: layers.Conv2DTranspose(16, 2), (4, 4, 32)),
    "Dense": (lambda: layers.Dense(64), (64,)),
    "wide Dense": (lambda: layers.Dense(16), (600,)),
    "Conv1D": (lambda: layers.Conv1D(32, 3), (4, 32)),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (4, 8, 8)), (4, 32)),
}


@tensorflow_only
@pytest.mark.parametrize("form", FORMS)
def test_size_prunes_what_makes_files_smaller(form):
    from tflite_content import to_tflite

    from str_keras.export.rewrite import Storage, store

    create, shape = FORMS[form]
    inputs, layer = keras.Input(shape), create()
    model = keras.Model(inputs, layer(inputs))
    dense = to_tflite(stk.budget.uniform(model, 0.9).apply(model))
    sizes = {
        sparse: len(
            store(dense, lambda _, sparse=sparse: Storage("float16", sparse=sparse))
        )
        for sparse in (False, True)
    }
    kernels, passed = choice(model, "size")
    assert bool(kernels) == (sizes[True] < sizes[False])
    said = "policy size: its zeros would save no bytes"
    assert list(passed.values()) == [said] * (not kernels)


def test_every_way_to_prune_takes_a_policy():
    model = mixed()
    sparse = stk.sparsify(model, s_init=-1.0, policy="latency")
    pruned = stk.prune(model, 0.9, policy="latency")
    by_budget = stk.prune(model, stk.budget.uniform(model, 0.9), policy="latency")
    for made in (sparse, pruned, by_budget):
        rows = stk.summary(made).rows
        assert {row.path for row in rows if row.threshold is not None} == FASTER
        assert all(
            row.reason.startswith("policy latency")
            for row in rows
            if row.path not in FASTER
        )
    for rule in (stk.budget.uniform, stk.budget.erk):
        rates = rule(model, 0.9, policy="latency").rates
        assert {path for path, rate in rates.items() if rate} == FASTER
    both = stk.budget.uniform(model, 0.9, skip="pointwise", policy="latency").rates
    assert {path for path, rate in both.items() if rate} == FASTER - {
        "pointwise/kernel"
    }


def test_bad_policies():
    said = "`policy` is one of latency, size, or None. Received: policy='speed'"
    for way in (stk.sparsify, lambda m, **k: stk.prune(m, 0.9, **k)):
        with pytest.raises(ValueError, match=said):
            way(mixed(), policy="speed")
    for rule in (stk.budget.uniform, stk.budget.erk):
        with pytest.raises(ValueError, match=said):
            rule(mixed(), 0.9, policy="speed")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    said = r"No kernel is left .*on images alone"
    with pytest.raises(ValueError, match=said):
        stk.sparsify(model, policy="latency")
    for rule in (stk.budget.uniform, stk.budget.erk):
        with pytest.raises(ValueError, match=said):
            rule(model, 0.9, policy="latency")


def test_the_training_command_takes_a_policy():
    for method, more in (("str", {}), ("gmp", {"sparsity": 0.9}), ("dense", {})):
        config = TrainConfig(method=method, policy="latency", **more)
        if method == "dense":
            with pytest.raises(ValueError, match="--policy has no effect"):
                check_used(config, ["policy"])
            continue
        check_used(config, ["policy"])
        config = building.resolve(config, 32, 10)
        rows = stk.summary(building.create(config, (32, 32, 3), 10, 10)).rows
        kinds = {row.kind for row in rows if row.threshold is not None}
        paths = {row.path for row in rows if row.threshold is not None}
        assert kinds == {"Conv2D"} and len(paths) == 13
        assert all("pointwise" in path for path in paths)
    with pytest.raises(ValueError, match="--policy is one of empty, latency, size"):
        TrainConfig(policy="speed")
    assert set(POLICIES) == {"latency", "size"}
