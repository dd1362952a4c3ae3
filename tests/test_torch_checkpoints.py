"""The authors' checkpoints: names, hostile files, equal networks, published figures."""

import argparse
import io
import os
import pickle
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest

import str_keras as stk
from str_keras import torch_checkpoints
from str_keras.torch_checkpoints import commands, files, names

torch = pytest.importorskip("torch")
torch_side = pytest.importorskip("parity.torch_side")

CLASSES = 10


def resnet(expansion, num_blocks, classes=CLASSES):
    return lambda kind=torch_side.STRConv2d: torch_side.ResNet(
        expansion, num_blocks, classes, kind
    )


def mobilenet(alpha=0.25, classes=CLASSES):
    return lambda kind=torch_side.STRConv2d: torch_side.MobileNet(alpha, classes, kind)


TWINS = {
    "resnet18": resnet(1, (2, 2, 2, 2)),
    "resnet34": resnet(1, (3, 4, 6, 3)),
    "resnet50": resnet(4, (3, 4, 6, 3)),
    "resnet101": resnet(4, (3, 4, 23, 3)),
    "mobilenetv1": mobilenet(),
}


def convs(twin):
    return torch_side.modules(twin, torch.nn.Conv2d)


def set_threshold(conv, rate):
    """Prunes this share exactly: a gap of 1 % lies between what goes and what stays.

    Without it float32 decides: s near -3 tells 1e-8 apart, as do two million weights.
    """
    weight = conv.weight.data.view(-1)
    order = weight.abs().argsort()
    number = round(rate * len(order))
    largest = weight[order[number - 1]].abs()
    weight[order[number:]] *= 1.01
    conv.sparseThreshold.data.fill_(torch.logit(1.005 * largest))


def make_twin(architecture, images):
    """A twin with statistics that fit its weights, a third to all but a tenth zero."""
    torch.manual_seed(0)
    twin = TWINS[architecture]()
    torch_side.randomize_batch_norm(twin)
    for i, conv in enumerate(convs(twin)):
        set_threshold(conv, (0.3, 0.6, 0.9)[i % 3])
    torch_side.settle_batch_norm(twin, images)
    return twin


def logits_of(twin, images):
    with torch.no_grad():
        return twin.eval()(images).numpy()


def save(path, twin, **others):
    """As the authors' code: the whole network inside of nn.DataParallel."""
    state = torch.nn.DataParallel(twin).state_dict()
    torch.save({"epoch": 100, "arch": "Net", "state_dict": state, **others}, path)


@pytest.fixture(scope="module")
def small():
    """A small MobileNetV1 of the authors, its images and logits.

    With few images batch norm divides by the deviation of a few values, and float32
    keeps two digits: 0.005 between float32 and float64 with 4 images, 0.0001 with 32.
    """
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    twin = make_twin("mobilenetv1", images)
    return twin, images, logits_of(twin, images)


@pytest.fixture(scope="module")
def net():
    return stk.models.MobileNetV1(0.25, (32, 32, 3), CLASSES)


def assert_equal_logits(model, images, expected):
    found = model(images.permute(0, 2, 3, 1).numpy(), training=False)
    found = keras.ops.convert_to_numpy(found)
    assert np.ptp(expected) > 0.03
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.ptp(expected))


# --- Names and layouts --------------------------------------------------------------


@pytest.mark.parametrize("architecture", TWINS)
def test_keys_and_shapes_are_those_of_the_authors(architecture):
    with torch.device("meta"):
        wanted = {
            k: tuple(v.shape) for k, v in TWINS[architecture]().state_dict().items()
        }
    sizes = {"alpha": 0.25} if architecture == "mobilenetv1" else {}
    model = stk.models.create(
        architecture, input_shape=(32, 32, 3), classes=CLASSES, **sizes
    )
    found = {}
    for weight in names.torch_weights(model, architecture):
        found[weight.key] = weight.shape
        layer = names.layer_name(weight.module)
        assert names.module_name(layer, architecture) == weight.module
        array = np.random.default_rng(0).normal(size=weight.variable.shape)
        assert weight.to_torch(array).shape == weight.shape
        np.testing.assert_array_equal(weight.to_keras(weight.to_torch(array)), array)
        if weight.is_kernel:
            found[f"{weight.module}.sparseThreshold"] = (1, 1)
        if weight.key.endswith(".running_var"):
            found[f"{weight.module}.num_batches_tracked"] = ()
    assert found == wanted
    assert names.architecture_of(wanted) == architecture
    assert names.sizes_of(wanted, architecture) == {
        "classes": CLASSES,
        "channels": 3,
        **sizes,
    }


@pytest.mark.parametrize(
    "module",
    ["", "relu", "layer5.0.conv1", "layer1.0.conv4", "model.0.3", "model.3.2", "fc.0"],
)
def test_unknown_modules(module):
    with pytest.raises(ValueError, match="Received: module="):
        names.layer_name(module)


@pytest.mark.parametrize(
    ("layer", "architecture"),
    [
        ("conv1_bn", "resnet50"),
        ("bn1", "mobilenetv1"),
        ("layer1_0_add", "resnet18"),
        ("block1_depthwise", "resnet18"),
    ],
)
def test_unknown_layers(layer, architecture):
    with pytest.raises(ValueError, match=f"{architecture} has no such module"):
        names.module_name(layer, architecture)


@pytest.mark.parametrize("alpha", [0.25, 0.35, 0.5, 0.75, 1.0])
def test_width_is_told_by_the_shapes(alpha):
    widths = {
        "model.12.3.weight": (int(alpha * 1024), 1, 1, 1),
        "model.13.0.weight": (7, 1, 3, 3),  # outvoted
        "model.13.3.weight": (int(alpha * 1024), 1, 1, 1),
    }
    found = names.sizes_of(widths, "mobilenetv1")["alpha"]
    for filters in torch_side.MOBILENET_WIDTHS:
        assert int(found * filters) == int(alpha * filters)


# --- Networks: both ways, equal logits ----------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    ["mobilenetv1", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)],
)
def test_round_trip(architecture, tmp_path):
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    twin = make_twin(architecture, images)
    expected = logits_of(twin, images)
    save(tmp_path / "theirs.pth", twin)
    model = torch_checkpoints.load(tmp_path / "theirs.pth", image_size=64)
    assert isinstance(model, stk.SparseModel)
    assert model.name == architecture
    assert_equal_logits(model, images, expected)
    nonzeros = sum(int(conv.sparse_weight().count_nonzero()) for conv in convs(twin))
    assert stk.summary(model).kernels.nonzeros == nonzeros

    torch_checkpoints.save(model, tmp_path / "ours.pth")
    again = TWINS[architecture]()
    checkpoint = torch.load(tmp_path / "ours.pth", weights_only=True)
    again.load_state_dict(checkpoint["state_dict"], strict=True)
    np.testing.assert_array_equal(logits_of(again, images), expected)
    assert checkpoint["arch"].lower() == architecture

    # Dense-compatible: plain convolutions that hold the zeros.
    plain = stk.strip(model)
    torch_checkpoints.save(plain, tmp_path / "dense.pth", data_parallel=True)
    dense = TWINS[architecture](torch.nn.Conv2d)
    state = torch.load(tmp_path / "dense.pth", weights_only=True)["state_dict"]
    torch.nn.DataParallel(dense).load_state_dict(state, strict=True)
    np.testing.assert_allclose(
        logits_of(dense, images), expected, rtol=0, atol=1e-3 * np.ptp(expected)
    )
    back = torch_checkpoints.load(tmp_path / "dense.pth", image_size=64)
    assert not isinstance(back, stk.SparseModel)
    for value, other in zip(back.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.slow
def test_published_sparsity_and_macs(tmp_path):
    """ResNet50 at 90.23 %: each layer's rate as published, and so the totals."""
    torch.manual_seed(0)
    twin = torch_side.ResNet(4, (3, 4, 6, 3), 1000)
    rates = dict(stk.budget.published("resnet50@90.23").rates)
    nonzeros = 0
    for name, module in twin.named_modules():
        if isinstance(module, torch_side.STRConv2d):
            rate = rates.pop(names.layer_name(name))
            set_threshold(module, rate)
            nonzeros += module.weight.numel() - round(module.weight.numel() * rate)
    assert not rates
    save(tmp_path / "resnet50.pth", twin)
    model = torch_checkpoints.load(tmp_path / "resnet50.pth")
    total = stk.summary(model).kernels
    assert total.params == 25_502_912
    assert total.nonzeros == nonzeros
    assert abs(nonzeros - 2_492_045) <= 54 / 2  # each layer's is a whole number
    printed = " ".join(commands.figures(model).split())
    assert "sparsity 90.23 %" in printed
    assert "MACs 342.60M at 224x224" in printed
    assert "MACs if dense 4,089.18M" in printed


@pytest.mark.parametrize("strip", [False, True])
def test_command(small, tmp_path, capsys, strip):
    twin, images, expected = small
    theirs, ours = str(tmp_path / "theirs.pth"), str(tmp_path / "new" / "ours.keras")
    save(theirs, twin)
    commands.convert(theirs, ours, strip=strip, image_size=32)
    nonzeros = sum(int(conv.sparse_weight().count_nonzero()) for conv in convs(twin))
    params = sum(conv.weight.numel() for conv in convs(twin))
    first = " ".join(capsys.readouterr().out.split())
    assert f"kernel weights {params:,} non-zeros {nonzeros:,}" in first
    assert f"sparsity {100 * (1 - nonzeros / params):.2f} %" in first
    assert first.endswith(f"written to {ours}")
    model = keras.saving.load_model(ours)
    assert isinstance(model, stk.SparseModel) is not strip
    assert_equal_logits(model, images, expected)

    back = str(tmp_path / "back.pth")
    commands.convert(ours, to_torch=back)
    assert " ".join(capsys.readouterr().out.split()).startswith(first[:-60])
    kind = torch.nn.Conv2d if strip else torch_side.STRConv2d
    again = TWINS["mobilenetv1"](kind)
    again.load_state_dict(torch.load(back)["state_dict"], strict=True)
    np.testing.assert_allclose(
        logits_of(again, images), expected, rtol=0, atol=1e-3 * np.ptp(expected)
    )


@pytest.mark.slow
def test_program(small, tmp_path):
    twin, _, _ = small
    save(tmp_path / "theirs.pth", twin)
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, f"{root}/tools/import_torch.py", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = run("--input=theirs.pth", "--output=ours.keras", "--strip")
    assert (done.returncode, done.stderr) == (0, "")
    assert "none: a plain model" in done.stdout
    assert (tmp_path / "ours.keras").exists()
    done = run("--input=bad.pth", "--output=b.keras")
    assert done.returncode == 1
    assert done.stderr.startswith("error: The file is damaged")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "b.keras").exists()


# --- What does not fit ---------------------------------------------------------------


def test_every_bad_key_is_named(small):
    state = {k: v.numpy(force=True) for k, v in small[0].state_dict().items()}
    wrong = dict(state)
    missing = ["model.0.0.weight", "model.3.1.running_var", "model.7.3.sparseThreshold"]
    for key in missing:
        del wrong[key]
    left_over = ["model.20.0.weight", "fc.bias", "fc.mask"]
    wrong |= {key: np.zeros(3, "float32") for key in left_over}
    wrong["model.5.0.weight"] = np.zeros((32, 3, 3), "float32")
    wrong["model.13.3.weight"] = np.zeros((255, 256, 1, 1), "float32")
    wrong["fc.sparseThreshold"] = np.zeros((10, 1, 1, 1), "float32")
    wrong["model.5.0.sparseWeight"] = np.zeros(2, "float32")
    with pytest.raises(ValueError, match="does not fit mobilenetv1") as error:
        torch_checkpoints.from_state_dict(wrong, image_size=32)
    text = str(error.value)
    assert "\n" not in text
    parts = text.split("; ")
    assert parts[0].endswith("missing: " + ", ".join(missing))
    assert parts[1] == "left over: " + ", ".join(left_over)
    assert parts[2].startswith("of another shape: ")
    for shapes in [
        "model.5.0.weight (32, 3, 3), not (64, 1, 3, 3)",
        "model.13.3.weight (255, 256, 1, 1), not (256, 256, 1, 1)",
        "fc.sparseThreshold (10, 1, 1, 1), not (1, 1)",
        "model.5.0.sparseWeight (2,), not (64, 1, 3, 3)",
    ]:
        assert shapes in parts[2]
    assert parts[2].count(", not (") == 4
    # As another architecture nothing of it fits.
    with pytest.raises(
        ValueError, match=r"does not fit resnet18: missing: conv1\.weight"
    ):
        torch_checkpoints.from_state_dict(state, "resnet18", image_size=32)
    with pytest.raises(ValueError, match="Received: architecture='vgg'"):
        torch_checkpoints.from_state_dict(state, "vgg")


def spoiled(array, value):
    array = array.copy()
    array.reshape(-1)[-1] = value
    return array


BROKEN = "not finite, or not floating-point"


@pytest.mark.parametrize(
    ("leaf", "spoil", "kind"),
    [
        *[
            (f"0.{leaf}", lambda a, value=value: spoiled(a, value), BROKEN)
            for leaf in ("0.weight", "1.weight", "1.bias", "1.running_mean")
            for value in (np.nan, np.inf, -np.inf)
        ],
        ("0.0.weight", lambda a: spoiled(a.astype("float64"), 1e300), BROKEN),
        ("0.0.weight", lambda a: a.astype("int64"), BROKEN),
        ("0.1.running_var", lambda a: spoiled(a, np.nan), BROKEN),
        ("0.1.running_var", lambda a: a > 0, BROKEN),
        ("0.1.running_var", lambda a: spoiled(a, -1e-6), "with variances below 0"),
        ("0.0.sparseThreshold", lambda a: spoiled(a, np.nan), BROKEN),
        ("0.0.sparseThreshold", lambda a: spoiled(a, np.inf), BROKEN),
        ("0.0.sparseThreshold", lambda a: a.astype("int32"), BROKEN),
    ],
)
def test_values_of_no_trained_network(small, leaf, spoil, kind):
    """One is enough; it is named beside keys that do not fit."""
    state = {k: v.numpy(force=True) for k, v in small[0].state_dict().items()}
    key = f"model.{leaf}"
    state[key] = spoil(state[key])
    with pytest.raises(ValueError, match=f"mobilenetv1: {kind}: {key}. Received"):
        torch_checkpoints.from_state_dict(state, image_size=32)
    del state["fc.weight"]
    with pytest.raises(ValueError, match=rf"missing: fc\.weight; {kind}: {key}. Rec"):
        torch_checkpoints.from_state_dict(state, image_size=32)


def test_values_that_are_legitimate(small):
    """s = -inf, a threshold of 0; a variance of 0; and what nothing reads."""
    state = {k: v.numpy(force=True) for k, v in small[0].state_dict().items()}
    state["model.0.0.sparseThreshold"] = np.float32([[-np.inf]])
    state["model.0.1.running_var"] = np.zeros_like(state["model.0.1.running_var"])
    state["model.0.0.sparseWeight"] = np.full_like(state["model.0.0.weight"], np.nan)
    assert state["model.0.1.num_batches_tracked"].dtype == "int64"
    model = torch_checkpoints.from_state_dict(state, image_size=32)
    first = stk.summary(model).rows[0]
    assert (first.threshold, first.nonzeros) == (0, first.params)


def test_the_command_writes_nothing_of_a_network_with_nan(small, tmp_path, capsys):
    twin = TWINS["mobilenetv1"]()
    twin.load_state_dict(small[0].state_dict())
    twin.fc.weight.data[0, 0] = torch.nan
    save(tmp_path / "theirs.pth", twin)
    with pytest.raises(ValueError, match=rf"{BROKEN}: fc\.weight"):
        commands.convert(str(tmp_path / "theirs.pth"), str(tmp_path / "ours.keras"))
    assert not capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


@pytest.mark.parametrize("keys", [[], ["a.weight"], ["layer1.0.conv1.weight"]])
def test_unknown_network(keys):
    with pytest.raises(ValueError, match="none of the authors' networks"):
        torch_checkpoints.from_state_dict(dict.fromkeys(keys, np.zeros(3)))


def test_extra_keys_of_the_authors_are_no_problem(small):
    """Stored sparse weights, thresholds without axes, and none for the first layer."""
    twin, images, _ = small
    state = {k: v.numpy(force=True) for k, v in twin.state_dict().items()}
    for name, conv in twin.named_modules():
        if isinstance(conv, torch.nn.Conv2d):
            sparse = conv.sparse_weight().numpy(force=True)
            state[f"{name}.sparseWeight"] = sparse
            # So that a logit that is left out changes the kernel.
            state[f"{name}.sparseThreshold"] = state[f"{name}.sparseThreshold"][0, 0]
    del state["model.0.0.sparseThreshold"], state["model.0.1.num_batches_tracked"]
    with pytest.raises(ValueError, match=r"missing: model\.0\.0\.sparseThreshold"):
        torch_checkpoints.from_state_dict(state, image_size=32)
    with pytest.raises(ValueError, match="no such layer to leave dense: conv1"):
        torch_checkpoints.from_state_dict(state, image_size=32, dense_layers=["conv1"])
    model = torch_checkpoints.from_state_dict(
        state, image_size=32, dense_layers=["model.0.0"]
    )
    rows = {row.path: row for row in stk.summary(model).rows}
    assert rows["conv1/kernel"].sparsity == 0
    assert rows["block1_depthwise/kernel"].sparsity > 0.3
    again = torch_side.MobileNet(0.25, CLASSES)
    state = torch_checkpoints.to_state_dict(model)
    assert "model.0.0.sparseThreshold" not in state
    state["model.0.0.sparseThreshold"] = np.full((1, 1), -np.inf)
    again.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    assert_equal_logits(model, images, logits_of(again, images))


def test_small_stem_both_ways():
    model = stk.sparsify(stk.models.ResNet18((32, 32, 1), 7, stem="small"), s_init=-3.0)
    state = torch_checkpoints.to_state_dict(model)
    assert state["conv1.weight"].shape == (64, 1, 3, 3)
    with pytest.raises(
        ValueError, match=r"conv1\.weight \(64, 1, 3, 3\), not \(64, 1, 7"
    ):
        torch_checkpoints.from_state_dict(state)
    again = torch_checkpoints.from_state_dict(state, stem="small")
    assert again.input_shape == (None, 32, 32, 1)
    for value, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: stk.sparsify(net, granularity="filter"), "one logit per layer"),
        (lambda net: stk.sparsify(net, g="exp"), "strip the model first"),
        (
            lambda net: keras.Sequential(
                [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv1")]
            ),
            r"no weight in place of these\. Received: .*conv1/bias",
        ),
        (
            lambda net: keras.Sequential(
                [keras.Input((4,)), keras.layers.Dense(4, use_bias=False, name="fc")]
            ),
            "Only resnet18, .* have the authors' names",
        ),
        (
            lambda net: keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]),
            "has no such module. Received: layer='dense",
        ),
        (lambda net: keras.Model(net.input, net.get_layer("block2_pointwise").output),
         "no mobilenetv1 of the authors' widths: missing: "),
    ],
)  # fmt: skip
def test_models_that_their_code_cannot_hold(net, make, message):
    with pytest.raises(ValueError, match=message) as error:
        torch_checkpoints.to_state_dict(make(net))
    assert "\n" not in str(error.value)


# --- Files ---------------------------------------------------------------------------

ARRAYS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def read(path):
    return {key: array.tolist() for key, array in files.read_state_dict(path).items()}


PLAIN = {"a.weight": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "a.bias": [1.0, 1.0]}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("location", ["cpu", "cuda:1"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_formats(tmp_path, monkeypatch, zipped, location, wrapped):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: location)
    content = {"state_dict": ARRAYS} if wrapped else ARRAYS
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if location != "cpu":
        with pytest.raises(RuntimeError, match="CUDA"):  # the tag is there
            torch.load(path, weights_only=True)
    assert read(path) == PLAIN


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint(tmp_path, zipped):
    """All that the authors' main.py saves, and what others add: none of it is built."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "arch": "ResNet50",
        "state_dict": ARRAYS,
        "best_acc1": np.float64(74.31),
        "best_acc5": np.float32(92.4),
        "curr_acc1": "Not evaluated",
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.256, gpus=[0, 1], rates=np.arange(3.0)),
        "history": np.arange(3),
    }
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert read(path) == PLAIN


def test_dtypes(tmp_path):
    tensors = {
        "half": torch.ones(1, dtype=torch.float16),
        "brain": torch.ones(1, dtype=torch.bfloat16),
        "double": torch.ones(1, dtype=torch.float64),
        "number": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(1)),
    }
    torch.save(tensors, tmp_path / "model.pth")
    found = files.read_state_dict(tmp_path / "model.pth")
    assert [str(found[key].dtype) for key in tensors] == [
        *("float32", "float32", "float64", "int64", "float32")
    ]


class Hostile:
    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        lambda *args: torch.save(*args, _use_new_zipfile_serialization=False),
        save_pickle,
    ],
    ids=["zip", "legacy", "pickle"],
)
@pytest.mark.parametrize(
    "place", [lambda h: h, lambda h: {"args": h, "state_dict": ARRAYS}]
)
def test_code_in_a_checkpoint_is_never_run(tmp_path, write, place):
    path, victim = tmp_path / "model.pth", tmp_path / "victim"
    write(place(Hostile(victim)), path)
    with pytest.raises(
        ValueError, match=r"would run code of it \(\w*\.?mkdir\)"
    ) as error:
        files.read_state_dict(path)
    assert "\n" not in str(error.value)
    assert not victim.exists()
    with open(path, "rb") as file:  # it is hostile indeed
        torch.load(file, weights_only=False) if write is not save_pickle else (
            pickle.load(file)
        )
    assert victim.exists()


class Borrowed:
    """Calls a harmless name of the allow-list with a hostile argument."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return argparse.Namespace, (), Hostile(self.victim)


def test_code_behind_an_allowed_name_is_never_run(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": ARRAYS, "args": Borrowed(tmp_path / "victim")}, path)
    with pytest.raises(ValueError, match="would run code"):
        files.read_state_dict(path)
    assert not (tmp_path / "victim").exists()


def damaged(tmp_path):
    buffer = io.BytesIO()
    torch.save(ARRAYS, buffer)
    return buffer.getvalue()[:-100]


def script(tmp_path):
    path = tmp_path / "script.pth"
    program = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(program, path)
    return path.read_bytes()


def tar(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def saved(content):
    def write(tmp_path):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    return write


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", "damaged"),
        (lambda _: b"PK\x03\x04 half a zip", "damaged"),
        (lambda _: bytes(range(256)), "damaged"),
        (damaged, "damaged"),
        (script, "TorchScript"),
        (tar, r"\.tar"),
        (saved(torch.ones(3)), "neither a state_dict .* but Tensor"),
        (saved([ARRAYS]), "but list"),
        (saved({"model": ARRAYS}), r"but \['model'\]"),
        (saved({"state_dict": {}}), r"but \['state_dict'\]"),
        (
            saved({**ARRAYS, "x": 3, "y": "b", 5: torch.ones(1)}),
            "other things than dense tensors by name: 'x', 'y', 5.",
        ),
        (saved({**ARRAYS, "x": torch.eye(2).to_sparse()}), "by name: 'x'"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        files.read_state_dict(path)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"Received: path={str(path)!r}")


def test_missing_file_and_missing_torch(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        files.read_state_dict(path)
    torch.save(ARRAYS, path)
    with monkeypatch.context() as patch:
        version = torch.torch_version.TorchVersion("2.9.1")
        patch.setattr(torch, "__version__", version)
        with pytest.raises(
            ModuleNotFoundError, match=r"2\.10 or newer .* torch 2\.9\.1"
        ):
            files.read_state_dict(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (
        lambda: files.read_state_dict(path),
        lambda: files.write_state_dict({}, path, "ResNet50"),
    ):
        with pytest.raises(
            ModuleNotFoundError, match=r"pip install 'str_keras\[torch\]'"
        ):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to write"),
        ({"output": "a.h5"}, r"ends in \.keras"),
        ({"to_torch": "in.pth"}, "one file"),
        ({"output": "a.keras", "to_torch": "a.keras"}, "is no .keras"),
        ({"output": "there.keras"}, "--overwrite"),
        ({"to_torch": ".", "overwrite": True}, "cannot replace a directory"),
        ({"input": "x.keras", "output": "a.keras", "stem": "small"}, "checkpoints of"),
        ({"input": "no.keras", "output": "a.keras"}, "no such model"),
        ({"output": "a.keras", "architecture": "vgg"}, "architecture='vgg'"),
    ],
)
def test_bad_arguments_of_the_command(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.keras").write_text("")
    torch.save(ARRAYS, "in.pth")
    with pytest.raises((ValueError, OSError), match=message):
        commands.convert(**{"input": "in.pth", **arguments})
    assert sorted(os.listdir()) == ["in.pth", "there.keras"]
