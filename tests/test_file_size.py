"""Bytes of files, told beforehand, against files that were written."""

import keras
import numpy as np
import pytest
from keras import layers

import str_keras as stk
from str_keras.budget.file_size import WEIGHTS
from str_keras.export.kinds import Kind
from str_keras.export.writing import TFLiteWriter


def mobilenet():
    return stk.models.MobileNetV1(0.25, (32, 32, 1), 10, stem="small")


def plain_net():
    """Biases, pooling, Dense layers; sums whose batch norm cannot be folded."""
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(16, 3, activation="relu", name="first")(image)
    x = layers.MaxPooling2D(name="pool")(x)
    y = layers.ReLU(name="act")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(16, 3, padding="same", use_bias=False, name="second")(y)
    x = layers.Flatten(name="flat")(layers.Add(name="sum")([x, y]))
    x = layers.Dropout(0.5, name="drop")(layers.Dense(128, "relu", name="dense")(x))
    return keras.Model(image, layers.Dense(10, name="classes")(x), name="plain")


def trained(model):
    """Gives a model weights that differ everywhere, as after a training."""
    random = np.random.default_rng(0)
    model.set_weights(
        [
            0.1 + np.abs(random.normal(0, 0.1, weight.shape))
            if weight.ndim == 1
            else random.normal(0, 0.05, weight.shape)
            for weight in model.get_weights()
        ]
    )
    return model


@pytest.mark.parametrize("build", [mobilenet, plain_net])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
def test_tells_the_size_of_written_files_within_a_percent(build, rate):
    model = stk.prune(trained(build()), rate)
    writer = TFLiteWriter(stk.strip(model))
    kept = [np.count_nonzero(item.sparse()) for item in model.thresholded]
    for weights in WEIGHTS:
        written = len(writer.encode(Kind(weights, sparse=True)).content)
        size = stk.budget.FileSize(model, weights)
        assert size(kept) == pytest.approx(written, rel=0.01)
        assert size(kept) == pytest.approx(
            stk.budget.estimate_bytes(model, weights=weights), abs=1
        )


@pytest.mark.parametrize("weights", WEIGHTS)
def test_grows_with_each_number(weights):
    size = stk.budget.FileSize(plain_net(), weights)
    assert size.paths[0] == "first/kernel" and len(size.paths) == 4
    for place, number in enumerate(size.sizes):
        for others in (size.sizes // 100, size.sizes // 2):
            kept = others.copy()
            sizes = []
            for count in np.unique(np.linspace(0, number, 2000).astype(int)):
                kept[place] = count
                sizes.append(size(kept))
            assert (np.diff(sizes) >= 0).all()
            # The first kernel is too small to be stored sparse.
            assert (sizes[-1] > sizes[0]) == (place > 0 or weights == "float32")


def test_is_the_same_however_thresholds_came_in():
    model = plain_net()
    sparse = stk.sparsify(model, s_init=-4.0)
    wanted = stk.budget.FileSize(model)
    kept = wanted.sizes // 10
    for given in (sparse, stk.prune(model, 0.9)):
        size = stk.budget.FileSize(given)
        assert size.paths == wanted.paths
        assert size(kept) == wanted(kept)
    image = keras.Input((8,), name="image")
    wrapped = stk.SoftThreshold(layers.Dense(64, name="dense"))(image)
    by_hand = keras.Model(image, layers.Dense(2, name="out")(wrapped), name="net")
    size = stk.budget.FileSize(by_hand)
    assert size.paths == ("dense/kernel",)
    assert size([0]) < size([512])


def test_counts_a_kernel_without_threshold_as_it_is():
    model = plain_net()
    some = stk.budget.FileSize(stk.prune(model, {"dense/kernel": 0.9}))
    assert some.paths == ("dense/kernel",)
    every = stk.budget.FileSize(model)
    kept = every.sizes.copy()
    kept[2] = 100
    assert some([100]) == pytest.approx(every(kept))


@pytest.mark.parametrize("layer", [layers.GRU(32), layers.Conv3D(16, 3)])
def test_one_written_file_corrects_what_is_badly_told(layer):
    shape = (8, 8, 8, 2) if isinstance(layer, layers.Conv3D) else (8, 16)
    net = [keras.Input(shape), layer, layers.Flatten(), layers.Dense(10)]
    model = trained(keras.Sequential(net))
    size = None
    for rate in (0.9, 0.5, 0.99):
        pruned = stk.prune(model, rate)
        kept = [np.count_nonzero(item.sparse()) for item in pruned.thresholded]
        kind = Kind("float16", sparse=True)
        written = len(TFLiteWriter(stk.strip(pruned)).encode(kind).content)
        if size is None:
            size = stk.budget.FileSize(pruned)
            size.correct(written, kept)
        assert size(kept) == pytest.approx(written, rel=0.01)


def test_says_what_is_wrong():
    model = plain_net()
    with pytest.raises(ValueError, match=r"one of .*Received: weights='int4'"):
        stk.budget.FileSize(model, "int4")
    with pytest.raises(ValueError, match="One number a kernel is wanted, 4 in all"):
        stk.budget.FileSize(model)([1, 2])
