"""Batch normalization estimated anew, against NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import layers

import str_keras as stk

RANDOM = np.random.default_rng(0)
# Batches that differ, and a last one that is smaller.
IMAGES = RANDOM.normal(1, 2, (50, 6, 6, 3)) + np.arange(50)[:, None, None, None] / 9
IMAGES = IMAGES.astype("float32")


def norm(name):
    start = {"beta_initializer": "ones", "momentum": 0.9, "name": name}
    return layers.BatchNormalization(epsilon=1e-3, **start)


def net(dtype=None):
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1, use_bias=False, name="one", dtype=dtype)(image)
    x = layers.Dropout(0.5)(norm("first")(x))
    x = layers.Conv2D(5, 1, use_bias=False, name="two")(layers.ReLU()(x))
    return keras.Model(image, layers.GlobalAveragePooling2D()(norm("second")(x)))


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")


def statistics(layer):
    return array(layer.moving_mean), array(layer.moving_variance)


def normalized_by_batch(x, beta):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-3) + beta


def expected(model, batches):
    """Inputs of both normalizations over all batches, in float64."""
    one, two = (array(model.get_layer(n).kernel)[0, 0] for n in ("one", "two"))
    first = [np.asarray(batch, "float64") @ one for batch in batches]
    second = [np.maximum(normalized_by_batch(x, 1), 0) @ two for x in first]
    found = (
        np.concatenate(inputs).reshape(-1, inputs[0].shape[-1])
        for inputs in (first, second)
    )
    return [(x.mean(0), x.var(0)) for x in found]


def check(model, wanted, rtol=1e-4):
    for name, (mean, variance) in zip(("first", "second"), wanted, strict=True):
        found = statistics(model.get_layer(name))
        np.testing.assert_allclose(found[0], mean, rtol, 1e-5)
        np.testing.assert_allclose(found[1], variance, rtol, 1e-6)


def test_mean_and_variance_are_those_of_all_inputs():
    model = net()
    weights = [array(v) for v in model.trainable_weights]
    stk.recalibrate(model, IMAGES, batch_size=16, verbose=False)
    batches = np.split(IMAGES, range(16, 50, 16))
    check(model, expected(model, batches))
    for before, variable in zip(weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(array(variable), before)
    # Once more gives the same: nothing is averaged with what stood there.
    kept = [statistics(model.get_layer(n)) for n in ("first", "second")]
    stk.recalibrate(model, IMAGES, batch_size=16, verbose=False)
    np.testing.assert_array_equal(kept[1], statistics(model.get_layer("second")))


def test_many_batches_are_as_good_as_one():
    whole, parts = net(), net()
    parts.set_weights(whole.get_weights())
    stk.recalibrate(whole, IMAGES, batch_size=50, verbose=False)
    stk.recalibrate(parts, IMAGES, batch_size=7, verbose=False)
    for found, wanted in zip(
        statistics(parts.get_layer("first")),
        statistics(whole.get_layer("first")),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, 1e-5)
    # What the model gives is then what it gave in training on the whole.
    inside = keras.Model(whole.input, whole.get_layer("first").output)
    outputs = array(inside(IMAGES)).reshape(-1, 4)
    np.testing.assert_allclose(outputs.mean(0), 1, atol=1e-4)


@pytest.mark.parametrize("form", ["tuples", "steps", "generator", "pydataset"])
def test_takes_data_in_batches(form):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return IMAGES[10 * index : 10 * index + 10], np.zeros(10)

    batches = np.split(IMAGES, 5)
    given = {
        "tuples": [(batch, np.zeros(10)) for batch in batches],
        "steps": [*batches, IMAGES * np.nan],
        "generator": (batch for batch in batches),
        "pydataset": Batches(),
    }
    model = net()
    steps = 5 if form == "steps" else None
    stk.recalibrate(model, given[form], steps=steps, verbose=False)
    check(model, expected(model, batches))


def test_reads_sparse_kernels_of_nested_models_and_layers_used_twice():
    inner = net()
    image = keras.Input((6, 6, 3))
    outer = keras.Model(image, layers.Dense(2)(inner(image) + inner(2 * image)))
    sparse = stk.prune(outer, 0.5)
    stripped = stk.strip(sparse)
    stk.recalibrate(sparse, IMAGES, batch_size=25, verbose=False)
    stk.recalibrate(stripped, IMAGES, batch_size=25, verbose=False)
    inside = next(x for x in stripped.layers if isinstance(x, keras.Model))
    batches = [half * n for half in np.split(IMAGES, 2) for n in (1, 2)]
    check(inside, expected(inside, batches))
    check(
        next(x for x in sparse.layers if isinstance(x, keras.Model)),
        expected(inside, batches),
    )


def test_half_precision_masks_and_frozen_layers():
    model = net(dtype="mixed_float16")
    model.get_layer("first").trainable = False
    stk.recalibrate(model, IMAGES, batch_size=25, verbose=False)
    check(model, expected(model, np.split(IMAGES, 2)), rtol=5e-3)

    words = keras.Input((None, 3))
    masked = layers.BatchNormalization()(layers.Masking()(words))
    model = keras.Model(words, masked)
    data = RANDOM.normal(3, 1, (8, 5, 3)).astype("float32")
    data[:, 3:] = 0
    stk.recalibrate(model, data, batch_size=4, verbose=False)
    read = data[:, :3].reshape(-1, 3).astype("float64")
    mean, variance = statistics(model.layers[-1])
    np.testing.assert_allclose(mean, read.mean(0), 1e-5)
    np.testing.assert_allclose(variance, read.var(0), 1e-5)


def test_a_progress_bar_is_shown(capsys):
    stk.recalibrate(net(), IMAGES[:4], batch_size=2)
    assert "2/2" in capsys.readouterr().out


def test_says_what_is_wrong_and_changes_nothing():
    model = net()
    before = statistics(model.get_layer("first"))
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="no BatchNormalization"):
        stk.recalibrate(plain, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="call it once"):
        stk.recalibrate(keras.Sequential([layers.Dense(2)]), np.zeros((4, 3)))
    with pytest.raises(TypeError, match=r"keras.Model is wanted"):
        stk.recalibrate(layers.BatchNormalization(), IMAGES)
    with pytest.raises(TypeError, match="Received: data=dict"):
        stk.recalibrate(model, {"image": IMAGES})
    with pytest.raises(ValueError, match="Received: 1 batches of 3"):
        stk.recalibrate(model, IMAGES, steps=3, verbose=False)
    with pytest.raises(ValueError, match="Received: 0 batches"):
        stk.recalibrate(model, [], verbose=False)
    with pytest.raises(ValueError, match=r"1 or more. Received: steps=0"):
        stk.recalibrate(model, IMAGES, steps=0)
    with pytest.raises(ValueError, match=r"not finite.*Received: layer=first"):
        stk.recalibrate(model, IMAGES * np.nan, verbose=False)
    np.testing.assert_array_equal(statistics(model.get_layer("first")), before)
    assert "call" not in vars(model.get_layer("first"))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="is tf.data's")
def test_endless_data_wants_a_number_of_steps():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(IMAGES).batch(10).repeat()
    model = net()
    with pytest.raises(ValueError, match="no end: say how many `steps`"):
        stk.recalibrate(model, data)
    stk.recalibrate(model, data, steps=5, verbose=False)
    check(model, expected(model, np.split(IMAGES, 5)))
