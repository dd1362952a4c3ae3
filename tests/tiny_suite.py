"""`python tests/tiny_suite.py --suite=tiny ...`: the runner, with runs of seconds."""

import contextlib

import keras

from experiments import recipes, run, suites
from str_keras import cli, models


def tiny_net(input_shape, classes, stem, synchronized, weights):
    """8 filters in strides of 4, and a classifier."""
    image = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 4, 4, use_bias=False, name="conv")(image)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.Dense(classes, use_bias=False, name="fc")(x))


def cells(grid):
    """One of each kind: dense, learned, at a rate, at the budget of another run."""
    methods = ("budget_dnw", "str", "gmp")  # the budget before it is there
    return [grid.cell("dense", None, 0), *(grid.cell(m, 0.9, 0) for m in methods)]


@contextlib.contextmanager
def registered(decay=0.055, **changes):
    """The suite "tiny" is there inside the block."""
    changes = {"epochs": 3, **changes}
    grid = suites.Grid("fashion_mnist_5k", "tiny_net", "tiny", changes)
    thresholds = {0.9: (decay, -4.0)}
    models.ARCHITECTURES["tiny_net"] = tiny_net
    recipes.RECIPES["tiny"] = dict.fromkeys(("str", "str_global"), thresholds)
    suites.SUITES["tiny"] = (grid, cells)
    try:
        yield grid
    finally:
        del models.ARCHITECTURES["tiny_net"], recipes.RECIPES["tiny"]
        del suites.SUITES["tiny"]


if __name__ == "__main__":
    run.define_flags()
    with registered():
        cli.run(run.main)
