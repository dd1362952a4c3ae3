"""A small network that XNNPACK's sparse kernels take, and what breaks each rule."""

import keras
import numpy as np

from str_keras.export import convert

layers, ops = keras.layers, keras.ops
WEIGHTS = 64_000  # of the two 1x1 convolutions


def conv(x, filters, kernel=1, strides=1, padding="same", activation="relu", **more):
    x = layers.Conv2D(filters, kernel, strides, padding, activation=activation, **more)(
        x
    )
    return x


def depthwise(x, kernel=3, strides=1, padding=None, **more):
    """Zeros of half the kernel on every side, unless `padding` is given."""
    if padding is None and strides != 1:
        x, padding = layers.ZeroPadding2D(kernel // 2)(x), "valid"
    return layers.DepthwiseConv2D(kernel, strides, padding or "same", **more)(x)


def stem(x, filters=16, kernel=3, strides=2, padding=1, **more):
    if padding:
        x = layers.ZeroPadding2D(padding)(x)
    return conv(x, filters, kernel, strides, "valid", name="stem", **more)


def pooled(x):
    return layers.Dense(10, name="classes")(layers.GlobalAveragePooling2D()(x))


def network(
    size=48,
    channels=3,
    stem=stem,
    first=depthwise,
    inside=lambda x: x,
    second=lambda x: depthwise(x, strides=2),
    behind=lambda x: x,
    head=pooled,
):
    """Stem, depthwise and 1x1 convolutions, twice; each part can be another."""
    size = size if isinstance(size, tuple) else (size, size)
    inputs = keras.Input((*size, channels))
    x = inside(conv(first(stem(inputs)), 200, name="pointwise_1"))
    x = behind(conv(second(x), 304, name="pointwise_2"))
    return keras.Model(inputs, head(x))


def excite(x, pool=None, between=lambda y: y):
    """Squeeze and excitation."""
    pool = pool or layers.GlobalAveragePooling2D(keepdims=True)
    y = conv(between(pool(x)), 16)
    return layers.Multiply()([x, conv(y, x.shape[-1], activation="sigmoid")])


def prune(model, zeros=0.9):
    """Random weights; `zeros`, a share or a number, in all 1x1 kernels together."""
    random = np.random.default_rng(0)
    pointwise = []
    for weight in model.weights:
        fan_in = max(1, int(np.prod(weight.shape[:-1])))
        if "depthwise" in weight.path:
            fan_in = int(np.prod(weight.shape[:2]))
        scale = 0.1 if len(weight.shape) == 1 else fan_in**-0.5
        value = scale * random.normal(size=weight.shape)
        weight.assign(1 + value if "variance" in weight.path else value)
        if tuple(weight.shape[:2]) == (1, 1):
            pointwise.append(weight)
    total = sum(int(np.prod(w.shape)) for w in pointwise)
    count = round(zeros * total) if isinstance(zeros, float) else zeros
    gone = np.zeros(total, bool)
    gone[random.permutation(total)[:count]] = True
    for weight in pointwise:
        here, gone = np.split(gone, [int(np.prod(weight.shape))])
        value = weight.numpy() * (total / max(1, total - count)) ** 0.5
        weight.assign(np.where(here.reshape(weight.shape), 0, value))
    return model


def to_tflite(model, sparse=True, batch_size=1, weights="float32"):
    """A file as TensorFlow's converter writes it, also what the exporter refuses."""
    calibration = None
    if weights == "int8":
        calibration = samples(model, 16)
    (content,) = convert.convert(
        model,
        weights=weights,
        encodings=(sparse,),
        batch_size=batch_size,
        calibration=calibration,
        normalize=None,
    )
    return content


def samples(model, count=2):
    random = np.random.default_rng(1)
    shape = keras.tree.flatten(model.inputs)[0].shape[1:]
    return random.standard_normal((count, *shape), dtype="float32")
