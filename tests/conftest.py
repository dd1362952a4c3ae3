"""Two logical CPU devices, one seed, and temporary models for every test."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # float64 references on that backend too

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Must come before any TensorFlow operation: the MirroredStrategy tests need two.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


@pytest.fixture(autouse=True)
def seeded():
    """The same initial weights in every run, whatever the order of the tests."""
    keras.utils.set_random_seed(0)
    # Programs that a test module imports set it; a process of a test is none.
    os.environ.pop("STR_KERAS_PROGRAM", None)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def mirrored():
    """One strategy a process: two of them break collective operations."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
