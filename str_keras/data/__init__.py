"""Real images for training: one `tf.data` pipeline over several kinds of sources."""

from str_keras.data.dataset import ImageDataset
from str_keras.data.info import DatasetInfo, DatasetNotFoundError
from str_keras.data.loading import load
from str_keras.data.preprocessing import Preprocessing

__all__ = [
    "DatasetInfo",
    "DatasetNotFoundError",
    "ImageDataset",
    "Preprocessing",
    "load",
]
