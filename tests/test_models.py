"""The architectures against published counts, PyTorch twins and the paper's rules."""

import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from parity import exchange

import str_keras.models as models

SMALL = {"input_shape": (32, 32, 3), "classes": 10, "stem": "small"}
CONVS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@pytest.fixture(scope="module")
def imagenet_models():
    """Each architecture at 224, built once; tests here only read them."""
    return {name: models.create(name) for name in models.ARCHITECTURES}


def kernels(model):
    return {
        layer.name: keras.ops.convert_to_numpy(layer.kernel)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def num_kernel_params(model):
    return sum(kernel.size for kernel in kernels(model).values())


def count_macs(model):
    """k * k * (Cin / groups) * Cout * Hout * Wout from the tensors' shapes."""
    macs = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            macs += layer.input.shape[-1] * layer.output.shape[-1]
        elif isinstance(layer, CONVS):
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            inputs_per_output = 1 if depthwise else layer.input.shape[-1]
            taps = np.prod(layer.kernel_size) * inputs_per_output
            macs += int(taps) * int(np.prod(layer.output.shape[1:]))
    return macs


def resnet_table(name, side=224, classes=1000):
    """(kernel params, MACs, batch-norm channels) by hand, from the paper's table 1."""
    expansion = 1 if name in ("resnet18", "resnet34") else 4
    num_blocks = {
        "resnet18": (2, 2, 2, 2),
        "resnet34": (3, 4, 6, 3),
        "resnet50": (3, 4, 6, 3),
        "resnet101": (3, 4, 23, 3),
    }[name]
    convs = [(7 * 7 * 3, 64, side // 2)]  # taps, filters, output side
    cin, side = 64, side // 4
    for stage, repeats in enumerate(num_blocks):
        width = 64 << stage
        for i in range(repeats):
            out_side = side // 2 if stage and not i else side
            if expansion == 1:
                convs += [(9 * cin, width, out_side), (9 * width, width, out_side)]
            else:
                convs += [
                    (cin, width, side),
                    (9 * width, width, out_side),
                    (width, 4 * width, out_side),
                ]
            if i == 0 and cin != width * expansion:
                convs.append((cin, width * expansion, out_side))
            cin, side = width * expansion, out_side
    head = cin * classes
    params = sum(taps * filters for taps, filters, _ in convs) + head
    macs = sum(taps * filters * out**2 for taps, filters, out in convs) + head
    return params, macs, sum(filters for _, filters, _ in convs)


# Parameters of torchvision's models, with 2 per batch-norm channel and 1,000 biases.
TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_resnet_counts(imagenet_models, name):
    params, macs, channels = resnet_table(name)
    assert params + 2 * channels + 1000 == TORCHVISION[name]
    model = imagenet_models[name]
    assert num_kernel_params(model) == params
    assert count_macs(model) == macs
    assert model.count_params() == params + 4 * channels


def test_published_counts_are_exact(imagenet_models):
    resnet50 = imagenet_models["resnet50"]
    assert num_kernel_params(resnet50) == 25_502_912
    assert count_macs(resnet50) == 4_089_184_256
    mobilenet = imagenet_models["mobilenetv1"]
    assert num_kernel_params(mobilenet) == 4_209_088
    assert count_macs(mobilenet) == 568_740_352


# Howard et al. 2017, table 6, in millions: MACs and parameters; theirs include batch
# norm and a bias, ours are kernels alone.
@pytest.mark.parametrize(
    ("alpha", "macs", "params"), [(0.25, 41, 0.5), (0.5, 149, 1.3), (0.75, 325, 2.6)]
)
def test_mobilenet_width(alpha, macs, params):
    model = models.MobileNetV1(alpha=alpha)
    filters = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    pointwise = [
        layer.filters
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert pointwise == [int(alpha * f) for f in filters]
    by_hand = (27 * pointwise[0]) + 1000 * pointwise[-1]
    by_hand += sum(9 * a + a * b for a, b in itertools.pairwise(pointwise))
    assert num_kernel_params(model) == by_hand
    assert by_hand / 1e6 == pytest.approx(params, abs=0.05)
    assert count_macs(model) / 1e6 == pytest.approx(macs, abs=1)


def test_mobilenet_has_at_least_8_filters():
    model = models.MobileNetV1(alpha=0.1, **SMALL)
    assert model.get_layer("conv1").filters == 8
    assert model.get_layer("block13_pointwise").filters == 102


def test_budget_rows_keep_the_authors_order(imagenet_models):
    names = list(kernels(imagenet_models["resnet50"]))
    assert names[:6] == [
        "conv1",
        "layer1_0_conv1",
        "layer1_0_conv2",
        "layer1_0_conv3",
        "layer1_0_downsample",
        "layer1_1_conv1",
    ]
    assert len(names) == 54
    assert names[-1] == "fc"
    names = list(kernels(imagenet_models["mobilenetv1"]))
    assert names[:3] == ["conv1", "block1_depthwise", "block1_pointwise"]
    assert len(names) == 28


def inbound(layer):
    return layer.input._keras_history.operation


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_padding_is_equal_on_each_side(imagenet_models, name, stem):
    model = imagenet_models[name]
    if stem == "small":
        model = models.create(name, **SMALL)
    windows = [
        (layer, layer.kernel_size) for layer in model.layers if isinstance(layer, CONVS)
    ]
    windows += [
        (layer, layer.pool_size)
        for layer in model.layers
        if isinstance(layer, keras.layers.MaxPooling2D)
    ]
    for layer, (size, _) in windows:
        padding = size // 2
        if size == 1:
            assert layer.padding == "valid"
        elif layer.strides == (1, 1):
            assert layer.padding == "same"
        else:
            assert layer.padding == "valid"
            zeros = inbound(layer)
            assert isinstance(zeros, keras.layers.ZeroPadding2D)
            assert zeros.padding == ((padding, padding), (padding, padding))
        if isinstance(layer, keras.layers.MaxPooling2D):
            # Zeros never win: what is padded is not negative.
            assert isinstance(inbound(inbound(layer)), keras.layers.ReLU)


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_constants(imagenet_models, name):
    model = imagenet_models[name]
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    convs = [layer for layer in model.layers if isinstance(layer, CONVS)]
    assert len(norms) == len(convs)
    for norm in norms:
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
        assert not norm.synchronized
    assert not any(layer.use_bias for layer in convs)
    assert not model.get_layer("fc").use_bias
    relus = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert relus and all(layer.max_value is None for layer in relus)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)


def test_synchronized_reaches_every_batch_norm():
    for name in ("resnet18", "mobilenetv1"):
        model = models.create(name, synchronized=True, **SMALL)
        norms = [
            layer
            for layer in model.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        assert norms and all(norm.synchronized for norm in norms)


def test_mobilenet_starts_and_ends_where_sparse_kernels_run(imagenet_models):
    layers = imagenet_models["mobilenetv1"].layers
    image, zeros, conv = layers[:3]
    assert image.output.shape == (None, 224, 224, 3)
    assert zeros.padding == ((1, 1), (1, 1))
    assert (conv.kernel_size, conv.strides) == ((3, 3), (2, 2))
    assert [type(layer) for layer in layers[-2:]] == [
        keras.layers.GlobalAveragePooling2D,
        keras.layers.Dense,
    ]
    assert not layers[-2].keepdims
    inside = layers[3:-2]
    allowed = (*CONVS, keras.layers.ZeroPadding2D)
    allowed += (keras.layers.BatchNormalization, keras.layers.ReLU)
    assert all(isinstance(layer, allowed) for layer in inside)
    for layer in inside:
        if type(layer) is keras.layers.Conv2D:
            assert (layer.kernel_size, layer.strides) == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("resnet18", (32, 32, 64), (4, 4, 512)),
        ("resnet50", (32, 32, 64), (4, 4, 2048)),
        ("mobilenetv1", (32, 32, 32), (2, 2, 1024)),
    ],
)
def test_small_stem(name, first, last):
    model = models.create(name, **SMALL)
    assert model.get_layer("conv1").output.shape[1:] == first
    assert model.get_layer("avgpool").input.shape[1:] == last
    assert not any(isinstance(x, keras.layers.MaxPooling2D) for x in model.layers)
    assert model(np.zeros((2, 32, 32, 3), "float32")).shape == (2, 10)


def test_smallest_images_of_one_channel():
    for name in ("resnet18", "mobilenetv1"):
        model = models.create(name, input_shape=(8, 9, 1), stem="small", classes=3)
        assert model(np.ones((2, 8, 9, 1), "float32")).shape == (2, 3)
        model = models.create(name, input_shape=(32, 40, 1))
        assert model.output.shape == (None, 1000)


def test_resnet_initializer_is_untruncated_kaiming_normal(imagenet_models):
    for name, kernel in kernels(imagenet_models["resnet50"]).items():
        z = kernel / np.sqrt(2 / np.prod(kernel.shape[:-1]))
        assert z.std() == pytest.approx(1, abs=4 / np.sqrt(2 * z.size)), name
        assert np.mean(np.abs(z) > 2) == pytest.approx(0.0455, abs=0.015), name
        assert abs(z.mean()) < 5 / np.sqrt(z.size), name


def test_mobilenet_initializers_are_pytorchs(imagenet_models):
    for name, kernel in kernels(imagenet_models["mobilenetv1"]).items():
        if name == "fc":
            z = kernel / np.sqrt(2 / 1024)
            assert z.std() == pytest.approx(1, abs=0.01)
            assert np.mean(np.abs(z) > 2) == pytest.approx(0.0455, abs=0.005)
            continue
        fan_in = 9 if "depthwise" in name else np.prod(kernel.shape[:-1])
        z = kernel * np.sqrt(fan_in)
        assert 0.97 < np.abs(z).max() <= 1 + 1e-6, name
        assert z.std() == pytest.approx(3**-0.5, rel=3 / np.sqrt(z.size)), name


def test_layers_of_one_shape_draw_different_kernels(imagenet_models):
    for name, one, other in [
        ("resnet50", "layer1_1_conv2", "layer1_2_conv2"),
        ("mobilenetv1", "block8_pointwise", "block9_pointwise"),
        ("mobilenetv1", "block8_depthwise", "block9_depthwise"),
    ]:
        values = kernels(imagenet_models[name])
        assert not np.any(values[one] == values[other])


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float32", "float32"),
        ("mixed_float16", "float32"),
        ("bfloat16", "float32"),
        ("float64", "float64"),
    ],
)
def test_logits_dtype(policy, dtype):
    keras.config.set_dtype_policy(policy)
    model = models.MobileNetV1(alpha=0.25, **SMALL)
    assert model.output.dtype == dtype
    logits = model(np.ones((1, 32, 32, 3), "float32"))
    assert keras.backend.standardize_dtype(logits.dtype) == dtype
    assert np.all(np.isfinite(keras.ops.convert_to_numpy(logits)))
    conv = model.get_layer("block1_pointwise")
    assert conv.compute_dtype == keras.config.dtype_policy().compute_dtype


# --- Against PyTorch ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_twin", "make_model"),
    [
        pytest.param(
            lambda twins, conv: twins.ResNet(1, (2, 2, 2, 2), 10, conv),
            lambda: models.ResNet18((64, 96, 3), 10),
            id="resnet18",
        ),
        pytest.param(
            lambda twins, conv: twins.ResNet(4, (3, 4, 6, 3), 10, conv),
            lambda: models.ResNet50((64, 96, 3), 10),
            id="resnet50",
        ),
        pytest.param(
            lambda twins, conv: twins.MobileNet(0.25, 10, conv),
            lambda: models.MobileNetV1(0.25, (64, 96, 3), 10),
            id="mobilenetv1",
        ),
    ],
)
def test_equals_pytorch(make_twin, make_model):
    torch = pytest.importorskip("torch")
    from parity import torch_side

    torch.manual_seed(0)
    keras.config.set_dtype_policy("float64")  # leaves no room for a wrong structure
    twin, model = make_twin(torch_side, torch.nn.Conv2d).double(), make_model()
    # Exact in float32, which is the dtype of `keras.Input` under every policy.
    images, others = torch.randn(2, 4, 3, 64, 96).double()
    torch_side.randomize_batch_norm(twin)
    torch_side.settle_batch_norm(twin, images)
    exchange.copy_from_torch(torch_side.state(twin), model)
    with torch.no_grad():
        expected = twin.eval()(images).numpy()
    assert expected.std() > 0.1
    channels_last = images.permute(0, 2, 3, 1).numpy()
    logits = keras.ops.convert_to_numpy(model(channels_last, training=False))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)

    keras.config.set_dtype_policy("float32")
    single = make_model()
    single.set_weights(model.get_weights())
    logits = keras.ops.convert_to_numpy(single(channels_last, training=False))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.ptp(expected))

    # One training step's statistics move as with PyTorch's momentum of 0.1.
    with torch.no_grad():
        expected = twin.train()(others).numpy()
    logits = keras.ops.convert_to_numpy(
        model(others.permute(0, 2, 3, 1).numpy(), training=True)
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)
    state = torch_side.state(twin)
    means = {name: state[name] for name in state if name.endswith("running_mean")}
    assert means
    for moving, expected in exchange.pair(model, means).values():
        moving = keras.ops.convert_to_numpy(moving)
        np.testing.assert_allclose(moving, expected, rtol=0, atol=1e-9)


# --- Arguments and files -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"architecture": "vgg16"},
            r"resnet18, .*mobilenetv1\. Received: architecture",
        ),
        ({"architecture": None}, "Received: architecture=None"),
        ({"stem": "tiny"}, "'imagenet', 'small'. Received: stem='tiny'"),
        ({"stem": "small", "input_shape": (65, 64, 3)}, "at most 64"),
        ({"stem": "small", "input_shape": (7, 32, 3)}, "at least 8"),
        ({"input_shape": (224, 31, 3)}, "at least 32"),
        ({"input_shape": (224, 224)}, r"Received: input_shape=\(224, 224\)"),
        ({"input_shape": (None, None, 3)}, "three positive integers"),
        ({"input_shape": (224, 224, 0)}, "three positive integers"),
        ({"input_shape": 224}, "three positive integers"),
        ({"classes": 0}, "Received: classes=0"),
        ({"classes": 2.5}, "Received: classes=2.5"),
        ({"alpha": 0.0}, "Received: alpha=0.0"),
        ({"alpha": 1.5}, "Received: alpha=1.5"),
        ({"alpha": float("nan")}, "Received: alpha=nan"),
        ({"weights": "imagenet"}, r"\.weights\.h5 file. Received: weights='imagenet'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        models.create(**{"architecture": "mobilenetv1", **arguments})
    assert "\n" not in str(error.value)


def test_resnet_checks_its_arguments_too():
    with pytest.raises(ValueError, match="at most 64"):
        models.ResNet18(stem="small")


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_last"):
            models.MobileNetV1()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_create_takes_capitals_and_arguments():
    model = models.create("MobileNetV1", alpha=0.25, name="mine", **SMALL)
    assert model.name == "mine"
    assert model.get_layer("conv1").filters == 8


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_round_trip(tmp_path, suffix):
    model = models.MobileNetV1(alpha=0.25, **SMALL)
    for variable in model.variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    path = tmp_path / f"model{suffix}"
    save = model.save if suffix == ".keras" else model.save_weights
    save(path)
    again = models.MobileNetV1(alpha=0.25, weights=path, **SMALL)
    for expected, value in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = models.MobileNetV1(alpha=0.25, **SMALL)
    kernel = np.array(model.weights[0])
    kernel[0, 0, 0, 0] = value
    model.weights[0].assign(kernel)
    path = str(tmp_path / "spoiled.weights.h5")
    model.save_weights(path)
    with pytest.raises(ValueError, match=f"{path}', variable={model.weights[0].path}"):
        models.MobileNetV1(alpha=0.25, weights=path, **SMALL)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_of_another_model(tmp_path, suffix):
    model = models.MobileNetV1(alpha=0.25, **SMALL)
    path = str(tmp_path / f"model{suffix}")
    (model.save if suffix == ".keras" else model.save_weights)(path)
    for arguments in ({"alpha": 0.5}, {"classes": 11}):
        with pytest.raises(ValueError, match="Cannot load these weights") as error:
            models.MobileNetV1(**{"alpha": 0.25, **SMALL, **arguments}, weights=path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600  # and not the values of a kernel
        assert str(error.value).endswith(f"Received: weights={path!r}")
    with pytest.raises(ValueError, match="into 'resnet18'"):
        models.ResNet18(**SMALL, weights=path)


def test_deeper_weights_are_refused(tmp_path):
    path = tmp_path / "deep.weights.h5"
    models.ResNet34(**SMALL).save_weights(path)
    with pytest.raises(ValueError, match="into 'resnet18'"):
        models.ResNet18(**SMALL, weights=path)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_missing_and_damaged_weights(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(FileNotFoundError, match="Received: weights="):
        models.MobileNetV1(alpha=0.25, **SMALL, weights=path)
    model = models.MobileNetV1(alpha=0.25, **SMALL)
    (model.save if suffix == ".keras" else model.save_weights)(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Received: weights=") as error:
        models.MobileNetV1(alpha=0.25, **SMALL, weights=path)
    assert "\n" not in str(error.value)


# Reads weights and images from the file in argv[1], prints the logits.
_OTHER_BACKEND = """
import json, sys
import numpy as np
import keras, str_keras.models as models
assert "tensorflow" not in sys.modules
with np.load(sys.argv[1]) as file:
    arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
model = models.MobileNetV1(alpha=0.25, input_shape=(32, 32, 3), classes=10)
model.set_weights(arrays[1:])
print(json.dumps(model.predict_on_batch(arrays[0]).tolist()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_agree(tmp_path, backend):
    pytest.importorskip(backend)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    model = models.MobileNetV1(alpha=0.25, input_shape=(32, 32, 3), classes=10)
    expected = keras.ops.convert_to_numpy(model(images))
    path = tmp_path / "arrays.npz"
    np.savez(path, images, *model.get_weights())
    result = subprocess.run(
        [sys.executable, "-c", _OTHER_BACKEND, path],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    logits = np.array(json.loads(result.stdout.splitlines()[-1]))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
