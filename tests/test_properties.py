"""What holds for all values: thresholds, budgets, configurations, damaged files."""

import gzip
import json
import math

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import str_keras as stk
from str_keras import config_files
from str_keras.budget import Budget
from str_keras.data.fashion_mnist import read_idx
from str_keras.reporting.reading import read_csv, read_json
from str_keras.thresholds import get_g

# The same examples in every run; no deadline, as first calls trace.
quick = hypothesis.settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
deep = hypothesis.settings(quick, max_examples=5000)

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
logits = floats | st.sampled_from([1e9, -1e9, 3e38, -3e38, 0.0, 88.8, -103.9])
kernels = arrays.arrays(
    "float32",
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    elements=floats | st.sampled_from([0.0, 1e-45, -1e-40, 1.2e-38, 3.4e38]),
)
paths = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
rates = st.floats(0, 1)


def each_depth(test):
    """A quick run in every suite, and a deep one in `make test-long`."""
    marks = [(quick, ()), (deep, pytest.mark.long)]
    cases = [
        pytest.param(s, marks=m, id=i)
        for (s, m), i in zip(marks, ("quick", "deep"), strict=True)
    ]
    return pytest.mark.parametrize("settings", cases)(test)


@each_depth
@pytest.mark.parametrize("g", ["sigmoid", "exp"])
def test_thresholds_of_any_size_leave_what_is_beyond_them(settings, g):
    @settings
    @hypothesis.given(kernels, logits)
    def check(kernel, logit):
        w, s = map(keras.ops.convert_to_tensor, (kernel, np.float32(logit)))
        threshold = get_g(g)(s)
        sparse = np.array(stk.soft_threshold(w, threshold))
        assert sparse.shape == kernel.shape
        limit = float(threshold)
        assert 0 <= limit < math.inf
        # In float64, as float32 rounds the difference; subnormal results may be 0.
        beyond = np.maximum(np.abs(kernel, dtype="float64") - limit, 0)
        wanted = np.sign(kernel) * beyond
        tiny = float(np.finfo("float32").tiny)
        np.testing.assert_allclose(sparse, wanted, rtol=2e-7, atol=2 * tiny)
        assert not sparse[np.abs(kernel) <= limit].any()

    check()


@each_depth
def test_budgets_come_back_from_their_files(settings, tmp_path):
    @settings
    @hypothesis.given(
        st.dictionaries(paths, rates, min_size=1, max_size=6),
        st.sampled_from([".csv", ".json"]),
    )
    def check(table, suffix):
        path = tmp_path / f"budget{suffix}"
        try:
            budget = Budget("ours", table, "a test")
        except ValueError:  # an empty path or two lines, or a layer with two rates
            hypothesis.reject()
        (budget.to_csv if suffix == ".csv" else budget.to_json)(path)
        assert dict(Budget.read(path).rates) == table

    check()


VALID = {
    "budget.csv": b"path,sparsity\nconv1/kernel,0.5\nfc/kernel,0.25\n",
    "budget.json": b'{"name":"a","layers":[{"path":"fc/kernel","sparsity":0.5}]}',
    "config.toml": b'architecture = "mobilenetv1"\nepochs = 9\nlr = 0.1\nxla = false\n',
    "config.json": b'{"config": {"architecture": "resnet50", "epochs": 9, "lr": 1e-1}}',
    "table.csv": b"epoch,loss,accuracy\n1,0.5,0.75\n2,0.25,0.8\n",
    "record.json": b'{"epochs": 3, "name": "x", "loss": [1.0, NaN, -1e400]}',
    "images.gz": gzip.compress(b"\0\0\x08\x01\0\0\0\x03abc", mtime=0),
}
HOSTILE = [
    b"",
    b"\0" * 100,
    b"\xff\xfe\0",
    b"[" * 100_000,
    b'{"layers":' + b"[" * 100_000,
    b'{"config":' + b"[" * 100_000,
    b"path,sparsity\n" + b'"' * 200_000,
    b"path,sparsity\n=cmd|' /C calc'!A0,1e999\n",
    b"path,sparsity\nfc/kernel," + b"9" * 5000 + b"\n",
    b'{"layers": [{"path": "fc", "sparsity": ' + b"9" * 5000 + b"}]}",
    gzip.compress(b"\0\0\x08\xff" + b"\0\0\0\x01" * 255 + b"a", mtime=0),
    gzip.compress(b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", mtime=0),
]


def read(path):
    """Reads a file by the reader of its name."""
    if path.name.startswith("budget"):
        Budget.read(path)
    elif path.name.startswith("config"):
        config_files.from_dict(config_files.read(path), str(path))
    elif path.suffix == ".csv":
        for line in read_csv(path, ("epoch", "loss")):
            line.need("epoch", int)
            line.parse("loss")
    elif path.suffix == ".json":
        read_json(path, {"epochs": int})
    else:
        read_idx(path)


@pytest.mark.parametrize("path", ["a\rb", "a\nb"])
def test_refuses_a_path_that_tables_would_break(path):
    with pytest.raises(ValueError, match="in one line"):
        Budget("ours", {path: 0.5})


def refuse_or_read(path, content):
    """A damaged file is read, or refused by a ValueError that says why."""
    path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        assert str(error)


@st.composite
def damaged(draw, content):
    """A file some bytes of which were changed, taken out or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        gone = draw(st.integers(0, 8))
        put = draw(st.binary(max_size=8) | st.sampled_from([b'"', b"\n", b",", b"[{"]))
        content = content[:at] + put + content[at + gone :]
    return content


@pytest.mark.parametrize("name", VALID)
def test_readers_read_what_is_whole(tmp_path, name):
    (tmp_path / name).write_bytes(VALID[name])
    read(tmp_path / name)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_readers_refuse_what_is_hostile(tmp_path, name, content):
    refuse_or_read(tmp_path / name, content)


@each_depth
@pytest.mark.parametrize("name", VALID)
def test_readers_refuse_damaged_files(settings, name, tmp_path):
    @settings
    @hypothesis.given(damaged(VALID[name]) | st.binary(max_size=200))
    def check(content):
        refuse_or_read(tmp_path / name, content)

    check()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=6,
)


@each_depth
def test_configurations_of_any_value_are_taken_or_refused(settings, tmp_path):
    names = sorted(config_files.TrainConfig.__dataclass_fields__)

    @settings
    @hypothesis.given(
        st.dictionaries(st.sampled_from(names) | st.text(max_size=8), json_values)
    )
    def check(values):
        refuse_or_read(tmp_path / "config.json", json.dumps(values).encode())

    check()


def zero_kernel():
    layer = keras.layers.Dense(3, kernel_initializer="zeros", name="zero")
    return keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])


@pytest.mark.parametrize("target", [{}, {"target_sparsity": 0.5}])
def test_warns_of_a_kernel_of_zeros(target):
    with pytest.warns(RuntimeWarning, match="stay 0.*Received: zero/kernel$"):
        stk.sparsify(zero_kernel(), **target)


def test_takes_a_kernel_of_zeros_that_can_return_or_is_left_dense(recwarn):
    stk.sparsify(zero_kernel(), skip="zero")
    stk.sparsify(zero_kernel(), preset="st3", target_sparsity=0.5)
    assert not recwarn.list
