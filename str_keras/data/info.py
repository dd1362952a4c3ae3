"""What a data set says about itself, and the error for one that is not there."""

import dataclasses


class DatasetNotFoundError(ValueError):
    """A data set that is unknown or not on this machine; the message says what to run.

    Its text is one line, meant to be shown to the user without a traceback.
    """


def corrupt(image: str) -> str:
    """The message about an image, told by its file and why it cannot be read."""
    return (
        "Cannot read an image: replace it, or leave out all such images of a folder by "
        f"corrupt_images=skip. Received: {image}"
    )


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about a loaded data set.

    Attributes:
        name: The name that `load` was given.
        num_classes: Number of classes; labels are 0 to `num_classes - 1`.
        class_names: One name per class, in the order of the labels.
        num_train: Number of training images.
        num_test: Number of test (or validation) images.
        image_shape: `(height, width, channels)` of the model's input.
        license: License of the images, as far as the source states it.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    image_shape: tuple[int, int, int]
    license: str
