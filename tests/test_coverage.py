"""What the sweep over architectures tells of small ones."""

import keras
import pytest

from experiments import coverage


@pytest.mark.parametrize(("name", "kernels"), [("MobileNet", 28), ("VGG16", 16)])
def test_check(tmp_path, name, kernels):
    create = getattr(keras.applications, name)
    model = create(weights=None, input_shape=(32, 32, 3), classes=5)
    found = coverage.check(model, tmp_path)
    assert found.outcome == coverage.EQUAL
    assert found.wrapped == found.kernels == kernels
    assert found.passed_through == []
    assert found.sparsity > 0.02


def test_check_tells_of_outputs_that_are_not_finite(tmp_path):
    image = keras.Input((4,))
    outputs = keras.layers.Rescaling(1e38)(keras.layers.Dense(3)(image))
    model = keras.Model(image, keras.layers.Rescaling(1e38)(outputs))
    assert "some output is not finite" in coverage.check(model, tmp_path).outcome
