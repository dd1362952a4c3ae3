"""Small networks for the export tests, with exactly known zeros."""

import keras
import numpy as np

layers = keras.layers


def sparse_cnn(head="dense", dtype=None, sparsity=0.9):
    """MobileNet's first layers on 32x32x1, with trained-like batch norms and zeros.

    Its kernels of 2 dimensions and more have 72 + 72 + 2,048 + 2,560 elements, all but
    the depthwise one (72) with `sparsity` of zeros.
    """
    inputs = keras.Input((32, 32, 1))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, dtype=dtype)(x)
    x = layers.ReLU()(layers.BatchNormalization(dtype=dtype)(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, dtype=dtype)(x)
    x = layers.ReLU()(layers.BatchNormalization(dtype=dtype)(x))
    x = layers.Conv2D(256, 1, use_bias=False, dtype=dtype)(x)
    x = layers.ReLU()(layers.BatchNormalization(dtype=dtype)(x))
    if head == "dense":
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(10, use_bias=False, dtype=dtype)(x)
    elif head == "conv":
        x = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = layers.Flatten()(layers.Conv2D(10, 1, use_bias=False)(x))
    elif head == "conv after reshape":
        x = layers.Reshape((1, 1, 256))(layers.GlobalAveragePooling2D()(x))
        x = layers.Flatten()(layers.Conv2D(10, 1)(layers.Activation("tanh")(x)))
    elif head == "squeeze and excitation":
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = layers.Conv2D(256, 1, activation="sigmoid")(y)
        x = layers.Multiply()([x, y])
        x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    fill(model, sparsity, dense="depthwise")
    return model


def fill(model, sparsity, dense="no such layer"):
    """Random weights, an exactly known number of zeros in all kernels but `dense`."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        value = random.normal(size=weight.shape)
        if "variance" in weight.path or "gamma" in weight.path:
            value = random.uniform(0.5, 1.5, weight.shape)
        elif len(weight.shape) > 1:
            # Not near zero: float16 and int8 must not round a survivor away.
            value = np.sign(value) * random.uniform(0.1, 0.4, weight.shape)
            if dense not in weight.path:
                zeros = random.permutation(value.size)[: round(value.size * sparsity)]
                value.flat[zeros] = 0
        else:
            value *= 0.1
        weight.assign(value)


def nonzeros(model):
    return sum(np.count_nonzero(w) for w in model.weights if len(w.shape) > 1)


def mobile(sparsity=0.9, size=25, padding="valid"):
    """A MobileNet of two blocks for which sparse kernels switch on, but for padding.

    At 25 pixels the second depthwise convolution sees 13x13: the converter folds its
    padding into "same", which XNNPACK's sparse inference takes for something else.
    """
    inputs = keras.Input((size, size, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(64, 1, activation="relu")(x)
    x = layers.ZeroPadding2D(1)(x) if padding == "valid" else x
    x = layers.DepthwiseConv2D(3, strides=2, padding=padding)(x)
    x = layers.Conv2D(128, 1, activation="relu")(x)
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    fill(model, sparsity, dense="depthwise")
    return model


def all_kinds():
    """Kernels of many operators, one of more than 256 columns, a bias used twice."""
    inputs = keras.Input((9, 9, 4))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = layers.Conv2DTranspose(12, 2, strides=2)(x)
    x = layers.Conv2D(300, 1, activation="relu")(x)
    x = layers.Conv2D(8, 3, groups=2, dilation_rate=2)(x)
    x = layers.Reshape((10, 80))(x)
    x = layers.Conv1D(12, 3, activation="relu", padding="causal")(x)
    x = layers.EinsumDense("abc,cde->abde", (10, 3, 5), bias_axes="de")(x)
    x = layers.Dense(16)(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(16)(layers.Dense(16)(x)))
    fill(model, 0.8)
    return model


def embedding():
    """A table that XNNPACK leaves to LiteRT; the classifier is XNNPACK's."""
    numbers = keras.Input((12,))
    places = keras.ops.cast(40 * keras.ops.abs(numbers), "int32")
    x = layers.Embedding(200, 16)(places)
    return keras.Model(numbers, layers.Dense(40)(layers.Flatten()(x)))


def volumes():
    x = inputs = keras.Input((5, 5, 5, 4))
    x = layers.Conv3DTranspose(8, 3)(layers.Conv3D(8, 3)(x))
    return keras.Model(inputs, layers.Dense(40)(layers.Flatten()(x)))


def transposed():
    """Of a free batch its output shape is computed, and XNNPACK leaves it."""
    x = inputs = keras.Input((5, 5, 8))
    x = layers.Conv2DTranspose(24, 3, strides=2)(x)
    return keras.Model(inputs, layers.Dense(40)(layers.Flatten()(x)))


def dense_over_maps():
    """As `mobile`, with Dense layers on four dimensions for 1x1 convolutions."""
    inputs = keras.Input((24, 24, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(64, 3, strides=2, activation="relu")(x)
    x = layers.Dense(64)(layers.Dense(64, activation="relu")(x))
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    fill(model, 0.7)
    return model
