"""`python tests/tiny_suite.py --suite=tiny ...`: the runner, with runs of seconds."""

import contextlib
import dataclasses

import keras
import tiny_training

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


def target_cells(grid):
    """What is led to a sparsity by nothing but its name."""
    return [grid.target_cell("str", 0.7, 0)]


@contextlib.contextmanager
def registered(decay=0.055, **changes):
    """The suites "tiny" and "tiny_targets" are there inside the block."""
    changes = {"epochs": 3, **changes}
    grid = suites.Grid("fashion_mnist_5k", "tiny_net", "tiny", changes)
    thresholds = {0.9: (decay, -4.0)}
    nets = {"tiny_net": tiny_net, "tiny_depthwise": tiny_training.tiny}
    models.ARCHITECTURES.update(nets)
    recipes.RECIPES["tiny"] = dict.fromkeys(("str", "str_global"), thresholds)
    suites.SUITES["tiny"] = (grid, cells)
    targets = dataclasses.replace(grid, architecture="tiny_depthwise")
    suites.SUITES["tiny_targets"] = (targets, target_cells)
    try:
        yield grid
    finally:
        for name in nets:
            del models.ARCHITECTURES[name]
        del recipes.RECIPES["tiny"]
        del suites.SUITES["tiny"], suites.SUITES["tiny_targets"]


if __name__ == "__main__":
    run.define_flags()
    with registered():
        cli.run(run.main)
