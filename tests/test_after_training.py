"""The experiment on what brings accuracy back after pruning at once."""

import keras
import numpy as np
import pytest

from experiments import after_training

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="experiments are for TensorFlow"
)


class Images:
    """Two classes that a small net can tell: bright on the left, or on the right."""

    def __init__(self):
        random = np.random.default_rng(0)
        self.labels = random.integers(0, 2, 256)
        self.images = random.normal(0, 1, (256, 8, 8, 1)).astype("float32")
        self.images[self.labels == 0, :, :4] += 1
        self.images[self.labels == 1, :, 4:] += 1

    def train(self, epoch, batch_size):
        pairs = tf.data.Dataset.from_tensor_slices((self.images, self.labels))
        return pairs.shuffle(256, seed=epoch).batch(batch_size)

    def evaluation(self, batch_size):
        return self.train(0, batch_size)


def test_measures_each_stage_and_leaves_the_net_as_it_was():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            # Statistics of a net that was not pruned, and far from this one's.
            layers.BatchNormalization(
                moving_mean_initializer=keras.initializers.Constant(9)
            ),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    before = net.get_weights()
    found = after_training.measure(net, Images(), 0.5)
    assert tuple(found) == after_training.STAGES
    assert found["fine_tuned"] > max(found["pruned"], 0.8)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
