"""`python tests/backend_training.py START OUT`: 20 steps from the weights in a file.

The same batches on every backend: `fit(shuffle=True)` would draw them by the backend's
own generator.
"""

import sys

import keras
import numpy as np

import str_keras as stk

STEPS, BATCH = 20, 16
WEIGHTS = "weights/"
"""Before the paths of variables in the file, beside the images and labels."""


def create():
    """Convolution, batch normalization, depthwise and dense; thresholds prune it."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="bn1")(x))
    x = layers.DepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, name="depthwise"
    )(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="bn2")(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(5, name="fc")(x), name="net")
    return stk.sparsify(model, s_init=-4.0)


def read(model):
    """All variables by their paths."""
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in model.variables}


def write_start(path):
    """Draws weights and batches; every backend starts from them."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS * BATCH, 8, 8, 3)).astype("float32")
    labels = rng.integers(0, 5, STEPS * BATCH)
    weights = {WEIGHTS + name: value for name, value in read(create()).items()}
    np.savez(path, images=images, labels=labels, **weights)


def main(start, out):
    """Trains by the library's SGD under a schedule, and writes all variables."""
    data = np.load(start)
    model = create()
    for variable in model.variables:
        variable.assign(data[WEIGHTS + variable.path])
    rate = stk.schedules.create("cosine", 0.1, 5, STEPS // 5, 1)
    optimizer = stk.optimizers.SGD(
        rate, momentum=0.875, weight_decay=1e-3, threshold_decay=0.05
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    model.fit(
        data["images"], data["labels"], batch_size=BATCH, shuffle=False, verbose=0
    )
    np.savez(out, **read(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
