"""Fine-tuning with zeros that stay."""

import keras
import numpy as np
import pytest
from keras import layers

import str_keras as stk
from str_keras.budget.counting import kernel_paths

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6, 6, 3)).astype("float32")
Y = RANDOM.normal(size=(64, 2)).astype("float32")


def net():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="conv", kernel_regularizer="l1l2")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    return keras.Model(image, layers.Dense(2, name="out")(layers.Flatten()(x)))


def kernels(model):
    return {
        path: np.array(keras.ops.convert_to_numpy(variable))
        for path, _, variable in kernel_paths(stk.strip(model))
    }


OPTIMIZERS = {
    "sgd": lambda: stk.optimizers.SGD(
        0.05, momentum=0.9, weight_decay=1e-2, nesterov=True
    ),
    "keras_sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "lion": lambda: keras.optimizers.Lion(0.001, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_and_values_move(name):
    frozen = stk.freeze_mask(stk.prune(net(), 0.8))
    before = kernels(frozen)
    assert frozen(X[:1]).shape == (1, 2)
    frozen.compile(OPTIMIZERS[name](), "mse")
    frozen.fit(X, Y, batch_size=16, epochs=3, verbose=0)
    after = kernels(frozen)
    assert before.keys() == after.keys() and len(before) == 4
    for path, values in after.items():
        np.testing.assert_array_equal(values == 0, before[path] == 0, path)
        assert 0.75 < (values == 0).mean() < 0.85
        kept = values != 0
        # All but those that lead nowhere, through zeros further on.
        assert (values[kept] != before[path][kept]).mean() > 0.1


def test_takes_up_where_soft_thresholds_leave(tmp_path):
    sparse = stk.sparsify(net(), s_init=-3.0)
    sparse.compile(stk.optimizers.SGD(0.05, weight_decay=1e-3), "mse")
    sparse.fit(X, Y, batch_size=16, verbose=0)
    given = [np.array(w) for w in sparse.get_weights()]
    stripped = stk.strip(sparse)
    for model in (sparse, stripped):
        frozen = stk.freeze_mask(model)
        expected = np.array(keras.ops.convert_to_numpy(sparse(X)))
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(frozen(X)), expected, atol=1e-6
        )
    assert len(frozen.weights) == len(stripped.weights)
    # A mixed file and back, in the middle of a training.
    frozen.compile(keras.optimizers.Adam(0.01), "mse")
    frozen.fit(X, Y, batch_size=16, verbose=0)
    frozen.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    loaded.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    for path, values in kernels(loaded).items():
        np.testing.assert_array_equal(values == 0, kernels(stripped)[path] == 0)
    loss = [m.evaluate(X, Y, verbose=0) for m in (frozen, loaded)]
    assert loss[1] < loss[0]
    for before, after in zip(given, sparse.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_report_counts_its_zeros():
    frozen = stk.freeze_mask(stk.prune(net(), {"conv/kernel": 0.5}))
    rows = {row.path: row for row in stk.summary(frozen).rows}
    assert rows["conv/kernel"].sparsity == pytest.approx(0.5, abs=0.01)
    assert rows["out/kernel"].reason == "it has no zeros"
    assert [item.kernel.path for item in frozen.thresholded] == ["conv/kernel"]


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="no zeros to keep: prune the model first"):
        stk.freeze_mask(net())
    frozen = stk.freeze_mask(stk.prune(net(), 0.5))
    for optimizer in (keras.optimizers.Muon(0.01), keras.optimizers.Adafactor(0.01)):
        frozen.compile(optimizer, "mse")
        with pytest.raises(ValueError, match="take SGD, Adam or another"):
            frozen.fit(X, Y, verbose=0)


@keras.saving.register_keras_serializable("test")
class Scale(layers.Layer):
    """A layer of an unknown kind."""

    def build(self, shape):
        self.matrix = self.add_weight((shape[-1], 3), "zeros", name="matrix")

    def call(self, x):
        return x @ self.matrix


def test_zeros_of_unknown_layers_would_not_stay():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(Scale(name="scale")(x)))
    model = stk.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"would not stay.*scale/matrix"):
        stk.freeze_mask(model)
    stk.freeze_mask(model, skip="scale")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_files_have_the_zeros(tmp_path, weights):
    frozen = stk.freeze_mask(stk.prune(net(), 0.9))
    frozen.compile(keras.optimizers.Adam(0.01), "mse")
    frozen.fit(X, Y, batch_size=16, verbose=0)
    report = stk.export.tflite(
        frozen,
        tmp_path / "model.tflite",
        weights=weights,
        sparse=weights != "int8",
        calibration=X if weights == "int8" else None,
        images=X[:8],
    )
    zeros = sum((values == 0).sum() for values in kernels(frozen).values())
    assert report.params - report.nonzeros >= zeros > 0.85 * report.params
