"""FastGRNN against NumPy in float64, learned ranks, and thresholds on recurrent layers.

Runs on every backend but for the exports.
"""

import pathlib
import zipfile

import keras
import numpy as np
import programs
import pytest
import reference
from keras import layers, ops

import str_keras as stk
from str_keras.folding import MATRICES, fold_rank, learned_cells
from str_keras.layers import FastGRNN, FastGRNNCell
from str_keras.thresholds import is_threshold_logit

numpy = ops.convert_to_numpy
TENSORFLOW = keras.backend.backend() == "tensorflow"
# JAX 0.10's tanh of float64 is off by 9e-8 on a CPU, and Keras 3.15 multiplies float64
# matrices in float32 on torch.
EXACT = 1e-13 if TENSORFLOW else 1e-6
BATCH, STEPS, FEATURES, UNITS = 3, 5, 3, 4
KINDS = {
    "full": {},
    "low": {"kernel_rank": 2, "recurrent_rank": 3},
    "exp": {"learn_rank": True, "s_init": -0.5},
    "sigmoid": {"learn_rank": True, "s_init": 0.3, "g": "sigmoid", "kernel_rank": 2},
}
kinds = pytest.mark.parametrize("kind", KINDS)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, STEPS, FEATURES))


def matrix(weights, name, g):
    """W or U `[rows, units]` of a dictionary of weights, in NumPy."""
    if name in weights:
        return weights[name]
    first, second = weights[f"{name}_1"], weights[f"{name}_2"]
    if f"{name}_importance" not in weights:
        return first @ second
    threshold = g(weights[f"threshold_logit_{name}"])
    m = reference.soft_threshold(weights[f"{name}_importance"], threshold)
    return first @ np.diag(m) @ second


def fast_grnn(weights, x, g):
    """The published formula, step by step; the last state."""
    w, u = (matrix(weights, name, g) for name in MATRICES)
    zeta, nu = (reference.sigmoid(weights[name]) for name in ("zeta", "nu"))
    h = np.zeros((len(x), u.shape[1]))
    for step in range(x.shape[1]):
        both = x[:, step] @ w + h @ u
        z = reference.sigmoid(both + weights["gate_bias"])
        c = np.tanh(both + weights["update_bias"])
        h = z * h + (zeta * (1 - z) + nu) * c
    return h


def by_name(cell):
    return {v.name: np.array(numpy(v), np.float64) for v in cell.weights}


def scatter(model, seed=1):
    """Weights of no pattern; m on both sides of its threshold, of both signs."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        if is_threshold_logit(v):
            v.assign(numpy(v) + rng.uniform(-0.3, 0.3, v.shape))
            continue
        wide = rng.uniform(0.1, 1.6, v.shape) * rng.choice([-1, 1], v.shape)
        v.assign(wide if "importance" in v.name else rng.normal(size=v.shape) * 0.5)


def build(*inner, **cell):
    cell = FastGRNNCell(UNITS, **cell)
    layer = FastGRNN(cell) if not inner else inner[0](cell)
    wide = keras.config.dtype_policy().name == "float64"
    inputs = keras.Input((STEPS, FEATURES), dtype="float64" if wide else "float32")
    return keras.Sequential([inputs, layer]), cell


@kinds
@pytest.mark.parametrize("layer", [layers.RNN, FastGRNN])
def test_the_cell_is_the_formula_in_float64(kind, layer):
    keras.config.set_dtype_policy("float64")
    model, cell = build(layer, **KINDS[kind])
    scatter(model)
    g = np.exp if kind == "exp" else reference.sigmoid
    expected = fast_grnn(by_name(cell), X, g)
    np.testing.assert_allclose(numpy(model(X)), expected, rtol=0, atol=EXACT)
    assert {v.dtype for v in model.weights} == {"float64"}


@kinds
@pytest.mark.parametrize("layer", [layers.RNN, FastGRNN])
def test_gradients_are_those_of_finite_differences(kind, layer):
    """One SGD step of rate 1 shows the gradients on any backend."""
    keras.config.set_dtype_policy("float64")
    model, cell = build(layer, **KINDS[kind])
    scatter(model)
    before = by_name(cell)
    g = np.exp if kind == "exp" else reference.sigmoid
    target = RNG.normal(size=(BATCH, UNITS))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    model.fit(X, target, batch_size=BATCH, verbose=0)
    after = by_name(cell)

    def loss(weights):
        return np.mean((fast_grnn(weights, X, g) - target) ** 2)

    step = 1e-6
    for name, value in before.items():
        for index in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = {**before, name: value.copy()}
                moved[name][index] += sign * step
                ends.append(loss(moved))
            wanted = (ends[0] - ends[1]) / (2 * step)
            found = value[index] - after[name][index]
            assert found == pytest.approx(wanted, 1e-5, max(1e-8, EXACT)), (
                name,
                index,
            )


def test_initial_values_are_the_papers():
    cell = FastGRNNCell(400, learn_rank=True, recurrent_rank=300)
    cell.build((None, 200))
    weights = by_name(cell)
    for name in MATRICES:
        for side in (1, 2):
            assert weights[f"{name}_{side}"].std() == pytest.approx(0.1, rel=0.02)
        importance = weights[f"{name}_importance"]
        assert importance.min() >= 0 and importance.max() < 1
        assert importance.mean() == pytest.approx(0.5, abs=0.06)
        assert weights[f"threshold_logit_{name}"] == -10
    assert weights["zeta"] == 1 and weights["nu"] == -4
    assert (weights["gate_bias"] == 1).all() and (weights["update_bias"] == 1).all()
    assert cell.ranks == (200, 300)  # exp(-10) is below them all


@pytest.mark.parametrize(
    "arguments",
    [
        {"return_sequences": True},
        {"go_backwards": True},
        {"return_state": True},
        {"unroll": True},
    ],
    ids=str,
)
def test_the_layer_is_that_of_keras(arguments):
    """In all of its ways, with a mask; high learned ranks are multiplied out."""
    x = np.array(X, "float32")
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], bool)
    for kind in KINDS.values():
        plain = layers.RNN(FastGRNNCell(UNITS, **kind), **arguments)
        ours = FastGRNN(FastGRNNCell(UNITS, **kind), **arguments)
        _ = plain(x), ours(x)  # builds them
        scatter(plain)
        ours.set_weights(plain.get_weights())
        wanted, found = plain(x, mask=mask), ours(x, mask=mask)
        for a, b in zip(
            keras.tree.flatten(wanted), keras.tree.flatten(found), strict=True
        ):
            np.testing.assert_allclose(numpy(a), numpy(b), atol=2e-6)


def test_the_layer_computes_thresholds_once_a_call(monkeypatch):
    from str_keras import recurrent

    calls, original = [], recurrent.soft_threshold
    monkeypatch.setattr(
        recurrent, "soft_threshold", lambda m, t: calls.append(m) or original(m, t)
    )
    for layer, number in ((FastGRNN, 2), (layers.RNN, 2 * STEPS)):
        layer = layer(FastGRNNCell(UNITS, learn_rank=True), unroll=True)
        layer(np.array(X, "float32"))
        calls.clear()
        layer(np.array(X, "float32"))
        assert len(calls) == number


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_stay_float32_under_mixed_precision(policy):
    wide, cell = build(learn_rank=True, s_init=-0.5)
    scatter(wide)
    keras.config.set_dtype_policy(policy)
    narrow, copy = build(learn_rank=True, s_init=-0.5)
    narrow.set_weights(wide.get_weights())
    x = np.array(X, "float32")
    out = narrow(x)
    assert keras.backend.standardize_dtype(out.dtype) == policy.removeprefix("mixed_")
    assert {v.dtype for v in copy.weights} == {"float32"}
    assert copy.ranks == cell.ranks
    out = numpy(ops.cast(out, "float32"))
    np.testing.assert_allclose(out, numpy(wide(x)), atol=0.05)


def test_files_keep_raw_importance_and_logits(tmp_path):
    for kind in KINDS.values():
        model, cell = build(**kind)
        scatter(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.layers[0].cell.get_config() == cell.get_config()
        for a, b in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(numpy(a), numpy(b))
        x = np.array(X, "float32")
        np.testing.assert_array_equal(numpy(model(x)), numpy(loaded(x)))


@pytest.mark.slow
def test_decay_of_the_logits_lowers_the_ranks_and_nothing_else_does():
    """A task of rank one: a sum over time of one projection of the features."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(256, 6, 8)).astype("float32")
    y = np.tanh((x @ rng.normal(size=(8, 1)) * 0.3).sum(1))
    ranks = {}
    for decay in (0.0, 0.05):
        keras.utils.set_random_seed(0)
        cell = FastGRNNCell(16, learn_rank=True, s_init=-8.0)
        model = keras.Sequential([FastGRNN(cell), layers.Dense(1)])
        optimizer = stk.optimizers.Adam(0.01, threshold_decay=decay)
        model.compile(optimizer, "mse")
        losses = model.fit(x, y, epochs=20, batch_size=32, verbose=0).history["loss"]
        assert losses[-1] < 0.2 * losses[0]
        ranks[decay] = cell.ranks
    assert ranks[0.0] == (8, 16)
    assert 0 < ranks[0.05].kernel < 8 and 0 < ranks[0.05].recurrent < 16


def deep():
    """Learned ranks in every place that can hold a cell."""

    def cell(units):
        return FastGRNNCell(units, learn_rank=True, s_init=-0.5)

    nested = keras.Sequential(
        [keras.Input((STEPS, 6)), FastGRNN(cell(5), return_sequences=True)],
        name="nested",
    )
    both = FastGRNN(cell(3), return_sequences=True)
    stack = layers.RNN([cell(4), layers.GRUCell(3), cell(4)], return_sequences=True)
    model = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            layers.Bidirectional(both, name="both"),
            nested,
            stack,
            layers.LSTM(3, return_sequences=True),
            FastGRNN(FastGRNNCell(UNITS, kernel_rank=2)),
            layers.Dense(2),
        ]
    )
    scatter(model)
    return model


@pytest.fixture(scope="module")
def folded():
    keras.utils.set_random_seed(0)
    model = deep()
    return model, fold_rank(model)


def size(cell):
    """Parameters of a cell of given ranks, by hand."""
    features = by_name(cell)["kernel_1"].shape[0]
    kernel, recurrent = cell.ranks
    units = cell.units
    return kernel * (features + units) + recurrent * 2 * units + 2 * units + 2


def test_fold_rank_keeps_outputs_and_drops_what_is_zero(folded):
    model, fixed = folded
    before = model.get_weights()
    cells = list(learned_cells(model))
    assert len(cells) == 5 and not list(learned_cells(fixed))
    learned = sum(cell.count_params() for cell in cells)
    fewer = sum(size(cell) for cell in cells)
    assert fewer < 0.9 * learned
    assert model.count_params() - fixed.count_params() == learned - fewer
    assert not any(is_threshold_logit(v) for v in fixed.weights)
    x = np.array(X, "float32")
    np.testing.assert_allclose(numpy(fixed(x)), numpy(model(x)), atol=1e-6)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    forward, backward = (
        getattr(fixed.get_layer("both"), f"{side}_layer").cell.ranks
        for side in ("forward", "backward")
    )
    assert (forward, backward) == (cells[0].ranks, cells[1].ranks)


def test_zeros_are_counted_before_folding_as_after(folded):
    """In every place that can hold a cell."""
    rows = [
        {row.path: (row.nonzeros, row.sparse_macs) for row in stk.summary(m).rows}
        for m in folded
    ]
    assert rows[0] == rows[1]
    learned = [row for row in stk.summary(folded[0]).rows if row.threshold is not None]
    assert len(learned) == 5 * 4 and any(row.sparsity for row in learned)


def test_a_folded_model_reloads(folded, tmp_path):
    fixed = folded[1]
    fixed.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.array(X, "float32")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(fixed(x)))


def test_a_matrix_of_rank_zero_becomes_zeros():
    model, cell = build(learn_rank=True, s_init=5.0)  # exp(5) is above any m
    assert cell.ranks == (0, 0)
    fixed = fold_rank(model)
    assert fixed.layers[0].cell.ranks == (1, 1)
    x = np.array(X, "float32")
    np.testing.assert_allclose(numpy(fixed(x)), numpy(model(x)), atol=1e-6)


def test_strip_folds_too():
    """Thresholds on kernels and on ranks at once, by `sparsify` and by hand."""
    x = np.array(X, "float32")
    plain = deep()
    hand = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            stk.SoftThreshold(
                FastGRNN(FastGRNNCell(6, learn_rank=True, s_init=-0.5)), s_init=-2.0
            ),
            layers.Dense(2),
        ]
    )
    scatter(hand)
    for model in (stk.sparsify(plain, s_init=-2.0), hand):
        with pytest.raises(ValueError, match=r"`stk.strip` takes them out and"):
            fold_rank(model)
        stripped = stk.strip(model)
        assert not any(is_threshold_logit(v) for v in stripped.weights)
        assert stripped.count_params() < model.count_params()
        assert stk.summary(stripped).kernels.sparsity > 0.05
        np.testing.assert_allclose(numpy(stripped(x)), numpy(model(x)), atol=2e-6)
    # Of a plain model with learned ranks it does that alone.
    folded = fold_rank(plain)
    for a, b in zip(folded.weights, stk.strip(plain).weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


def recurrent_net():
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both"),
            layers.SimpleRNN(4, return_sequences=True, name="simple"),
            layers.RNN([layers.GRUCell(4), layers.LSTMCell(3)], name="stack"),
            layers.Dense(2, name="head"),
        ]
    )


def test_recurrent_layers_are_sparsified_without_naming_kernels(tmp_path):
    sparse = stk.sparsify(recurrent_net(), s_init=-1.5, skip="head")
    paths = [t.kernel.path for t in sparse.thresholded]
    assert paths == [
        f"{place}/{kernel}"
        for place in ("both/forward", "both/backward", "simple", "stack/cell_0")
        for kernel in ("kernel", "recurrent_kernel")
    ] + ["stack/cell_1/kernel", "stack/cell_1/recurrent_kernel"]
    x = RNG.normal(size=(3, 6, 4)).astype("float32")
    sparse.compile(stk.optimizers.SGD(0.1, threshold_decay=0.1), "mse")
    sparse.fit(x, np.zeros((3, 2)), verbose=0)
    rows = {row.path: row for row in stk.summary(sparse).rows}
    assert set(rows) == {*paths, "head/kernel"}
    assert all(rows[path].sparsity > 0 for path in paths)
    plain = stk.strip(sparse)
    np.testing.assert_array_equal(numpy(plain(x)), numpy(sparse(x)))
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(sparse(x)))
    # A layer inside would read raw kernels, of either direction.
    for layer in (sparse.get_layer("both"), sparse.get_layer("both").forward_layer):
        with pytest.raises(RuntimeError, match="part of a SparseModel"):
            layer(x)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"units": 0}, "`units` must be a positive integer. Received: units=0"),
        ({"units": 2.5}, r"Received: units=2.5"),
        ({"kernel_rank": True}, "kernel_rank=True"),
        ({"recurrent_rank": -1}, "integer or None. Received: recurrent_rank=-1"),
        ({"kernel_rank": 4}, "above 3, the smaller side of the matrix 3x4"),
        ({"recurrent_rank": 5}, "above 4, .*rank of the recurrent_kernel=5"),
        ({"g": "tanh"}, "Unknown threshold function"),
        ({"s_init": -1.0}, "`s_init` is for `learn_rank=True`"),
        ({"s_init": float("inf"), "learn_rank": True}, "s_init=inf"),
        ({"s_init": True, "learn_rank": True}, "finite number. Received: s_init=True"),
        ({"learn_rank": "False"}, "True or False. Received: learn_rank='False'"),
        ({"learn_rank": 1}, "Received: learn_rank=1"),
        ({"learn_rank": None}, "Received: learn_rank=None"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        FastGRNN(FastGRNNCell(**{"units": UNITS, **arguments}))(X)


@pytest.mark.parametrize("layer", [layers.RNN, FastGRNN])
@pytest.mark.parametrize("learn_rank", [False, True])
@pytest.mark.parametrize(
    ("shape", "step"),
    [
        ((None, None), r"\(None, None\)"),
        ((FEATURES,), r"\(None,\)"),
        ((STEPS, 2, FEATURES), rf"\(None, 2, {FEATURES}\)"),
    ],
)
def test_inputs_that_are_no_sequences_of_known_features(layer, learn_rank, shape, step):
    cell = FastGRNNCell(UNITS, learn_rank=learn_rank)
    with pytest.raises(ValueError, match=f"steps, D.*Received: input_shape={step}"):
        layer(cell)(keras.Input(shape))


def test_ranks_before_building_and_bad_models():
    with pytest.raises(ValueError, match="known once the cell is built"):
        FastGRNNCell(3).ranks  # noqa: B018
    with pytest.raises(TypeError, match="Received: model=int"):
        fold_rank(3)
    with pytest.raises(ValueError, match="built=False"):
        fold_rank(keras.Sequential([FastGRNN(FastGRNNCell(3))]))


def run_tflite(path, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (given,), (got,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(got["index"])


@pytest.mark.slow
@pytest.mark.skipif(not TENSORFLOW, reason="export is TensorFlow's")
@pytest.mark.parametrize("layer", [layers.RNN, FastGRNN, layers.Bidirectional])
@pytest.mark.parametrize("unroll", [False, True])
def test_files_run_without_select_ops(layer, unroll, tmp_path):
    cell = FastGRNNCell(UNITS, learn_rank=True, s_init=-0.5)
    inner = (FastGRNN if layer is layers.Bidirectional else layer)(cell, unroll=unroll)
    inner = layer(inner) if layer is layers.Bidirectional else inner
    model = keras.Sequential(
        [keras.Input((STEPS, FEATURES)), inner, layers.Dense(UNITS)]
    )
    scatter(model)
    path, x = tmp_path / "model.tflite", np.array(X, "float32")
    batch_size = None if unroll else BATCH
    report = stk.export.tflite(model, path, batch_size=batch_size)
    # The ranks are folded on the way.
    assert report.params == sum(
        row.params for row in stk.summary(stk.strip(model)).rows
    )
    assert b"Flex" not in path.read_bytes()
    np.testing.assert_allclose(run_tflite(path, x), numpy(model(x)), atol=1e-6)


@pytest.mark.skipif(not TENSORFLOW, reason="export is TensorFlow's")
@pytest.mark.parametrize(
    ("layer", "options", "match"),
    [
        (FastGRNN(FastGRNNCell(3)), {"batch_size": None}, "needs a fixed batch"),
        (layers.LSTM(3, name="loop"), {"batch_size": None}, "batch.*layer=loop"),
        (
            layers.Bidirectional(layers.GRU(3)),
            {"weights": "int8", "calibration": np.array(X, "float32")},
            "unroll=True, or take weights='float16'. Received: layer=forward_gru",
        ),
    ],
    ids=["free", "free lstm", "int8"],
)
def test_what_a_loop_cannot_be_converted_to(layer, options, match, tmp_path):
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layer, layers.Dense(2)])
    with pytest.raises(stk.export.ExportError, match=match):
        stk.export.tflite(model, tmp_path / "model.tflite", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_experiment_skips_what_is_in_its_table(tmp_path, capsys, monkeypatch):
    """And goes on where it stopped; the figure and the table of means are drawn."""
    from experiments import rnn

    runs = []

    def stopped(cell, data, seed):
        if len(runs) == 12:
            raise KeyboardInterrupt
        runs.append((cell, seed))
        # Powers of two: exact in a table of six digits.
        return {"accuracy": 0.5 + seed / 4, "parameters": 4 * len(runs) + 400} | {
            "rank_w": cell.kernel_rank or 28,
            "rank_u": cell.recurrent_rank or 64,
            "seconds": 0.5,
        }

    monkeypatch.setattr(rnn, "_run", stopped)
    arguments = [f"--output={tmp_path}", "--seeds=2"]
    assert programs.run(rnn, arguments, capsys)[0] == 130
    assert len(rnn.read(tmp_path / "rnn.csv")) == 12 and len(set(runs)) == 12
    before = (tmp_path / "rnn.csv").read_text()
    runs = []
    status, out, _ = programs.run(rnn, arguments, capsys)
    assert status == 0 and len(runs) == 2 * 9 - 12
    assert (tmp_path / "rnn.csv").read_text().startswith(before)
    assert (tmp_path / "rnn.png").read_bytes().startswith(b"\x89PNG")
    assert "0.6250 ± 0.1250" in out and "pip download --no-deps seglearn" in out
    runs = []
    assert programs.run(rnn, arguments, capsys)[0] == 0 and not runs
    assert len(rnn.read(tmp_path / "rnn.csv")) == 18


def test_the_watchs_file_is_opened_only_if_it_is_the_published_one(tmp_path):
    from experiments import sequences

    with pytest.raises(ValueError, match="pip download --no-deps seglearn"):
        sequences.watch("")
    ran = tmp_path / "ran"
    pickled = tmp_path / "other.npy"
    np.save(pickled, np.array([Malicious(ran)], object), allow_pickle=True)
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(pickled, sequences.WATCH_FILE)
    for path in (pickled, wheel):
        with pytest.raises(ValueError, match="another file than the published one"):
            sequences.watch(str(path))
    assert not ran.exists()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("README", "nothing")
    with pytest.raises(ValueError, match="Received: --watch="):
        sequences.watch(str(wheel))


class Malicious:
    """A pickle that leaves a file where it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)
