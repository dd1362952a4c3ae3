"""What the sweep over architectures tells of small ones."""

import keras

from experiments import coverage


def small_net():
    """Four kernels; batch normalization, dropout and an activity regularizer."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, use_bias=False)(x)
    x = layers.Conv2D(32, 1, activity_regularizer="l2")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(5)(x))


def test_check(tmp_path):
    found = coverage.check(small_net(), tmp_path)
    assert found.outcome == coverage.EQUAL
    assert found.wrapped == found.kernels == 4
    assert found.passed_through == []
    assert 0.02 < found.sparsity < 0.5


def test_check_tells_of_outputs_that_are_not_finite(tmp_path):
    image = keras.Input((4,))
    outputs = keras.layers.Rescaling(1e38)(keras.layers.Dense(3)(image))
    model = keras.Model(image, keras.layers.Rescaling(1e38)(outputs))
    assert "some output is not finite" in coverage.check(model, tmp_path).outcome
