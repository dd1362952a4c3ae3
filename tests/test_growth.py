"""No work grows faster than the number of layers: operations are counted, not time."""

import cProfile

import keras
import numpy as np
import pytest

import str_keras as stk
from str_keras import checkpoint

LONG = pytest.mark.long
SIZES = [
    pytest.param((10, 100), id="100 layers"),
    pytest.param((50, 500), id="500 layers", marks=LONG),
]
MORE = 1.05
"""Of what ten times as many layers may take, beyond ten times the work."""


def chain(number, kind="dense"):
    x = inputs = keras.Input((4, 4, 4) if kind == "conv" else (4,))
    for i in range(number):
        layer = keras.layers.Conv2D(4, 1) if kind == "conv" else keras.layers.Dense(4)
        layer.name = f"layer{i}"
        x = layer(x)
    return keras.Model(inputs, x)


def calls(function, *arguments):
    """What a function gives, and how many calls of Python it takes."""
    profile = cProfile.Profile()
    result = profile.runcall(function, *arguments)
    return result, sum(entry.callcount for entry in profile.getstats())


def counts(number, kind, tmp_path):
    """Calls by verb; each is done before, as the first call imports and caches."""
    dense = chain(number, kind)
    path = tmp_path / f"{kind}{number}.keras"
    found = {}
    sparse, found["sparsify"] = calls(stk.sparsify, dense)
    led = {"target_sparsity": 0.9}
    _, found["sparsify to a target"] = calls(lambda: stk.sparsify(dense, **led))
    _, found["strip"] = calls(stk.strip, sparse)
    _, found["summary"] = calls(lambda: str(stk.summary(sparse)))
    sparse.compile(stk.optimizers.SGD(0.1), "mse")
    progress = checkpoint.Progress(0)
    _, found["save"] = calls(checkpoint.save, sparse, path, progress)
    _, found["load"] = calls(checkpoint.load, path)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["dense", pytest.param("conv", marks=LONG)])
def test_tools_take_as_many_calls_as_there_are_layers(tmp_path, kind, sizes):
    counts(2, kind, tmp_path)
    few, many = (counts(number, kind, tmp_path) for number in sizes)
    ratio = sizes[1] / sizes[0]
    for verb, number in many.items():
        assert number <= MORE * ratio * few[verb], verb
        assert number > ratio  # it was counted


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="counts operations of its graph"
)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    "target",
    [
        pytest.param({}, id="free", marks=LONG),
        pytest.param({"target_sparsity": 0.9}, id="led"),
    ],
)
def test_a_step_has_as_many_operations_as_there_are_layers(target, sizes):
    import tensorflow as tf

    def operations(number):
        model = stk.sparsify(chain(number), **target)
        model.compile(stk.optimizers.SGD(0.1, threshold_decay=0.1), "mse")
        batch = np.ones((2, 4), "float32"), np.ones((2, 4), "float32")
        model.train_on_batch(*batch)  # makes the optimizer's variables

        def step(x, y):
            return model.train_step((x, y))

        graph = tf.function(step).get_concrete_function(*map(tf.constant, batch)).graph
        return len(graph.get_operations())

    few, many = map(operations, sizes)
    assert sizes[1] < many <= MORE * sizes[1] / sizes[0] * few
