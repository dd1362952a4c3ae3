"""Trainings of seconds: a few real images and a net of four kernels."""

import pathlib

import keras

import str_keras as stk

CLASSES, PER_CLASS = 3, 32


def write_images(root: pathlib.Path) -> pathlib.Path:
    """A folder of images out of the embedded set: 96 to train on, 48 to test on."""
    from PIL import Image

    dataset = stk.data.load("fashion_mnist_5k")
    for split, per_class in (("train", PER_CLASS), ("test", 16)):
        images, labels = dataset.raw(split, 1500)
        for label in range(CLASSES):
            where = root / split / dataset.info.class_names[label].replace("/", "-")
            where.mkdir(parents=True)
            for i, image in enumerate(images[labels == label][:per_class]):
                Image.fromarray(image[..., 0]).save(where / f"{i:03}.png")
    return root


def tiny(input_shape, classes, stem, synchronized, weights, normalized=True):
    """A net of four kernels: MobileNetV1 takes ten times as long to trace."""
    layers = keras.layers
    inputs = x = keras.Input(input_shape)
    for layer in (
        layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv1"),
        layers.BatchNormalization(momentum=0.9, synchronized=synchronized),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False, name="block1_depthwise"),
        layers.BatchNormalization(momentum=0.9, synchronized=synchronized),
        layers.ReLU(),
        layers.Conv2D(16, 1, use_bias=False, name="block1_pointwise"),
        layers.BatchNormalization(momentum=0.9, synchronized=synchronized),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(classes, use_bias=False, dtype="float32", name="fc"),
    ):
        if normalized or not isinstance(layer, layers.BatchNormalization):
            x = layer(x)
    model = keras.Model(inputs, x, name="tiny")
    if weights:
        model.load_weights(weights)
    return model
