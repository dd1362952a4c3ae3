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
