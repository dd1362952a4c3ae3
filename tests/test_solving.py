"""The common level of all kernels, against every level tried in turn."""

import keras
import numpy as np
import pytest
from keras import layers

import str_keras as stk
from str_keras import ranking
from str_keras.model import find_thresholded
from str_keras.steering import Loop


def by_trying(keys, floors, cost, limit):
    """Weights kept at the lowest level that is enough; every key is tried."""
    keys = [np.where(np.isnan(key), np.inf, key) for key in keys]
    levels = np.unique(np.concatenate(keys))
    levels = levels[np.isfinite(levels)]
    for level in (-1e300, *levels):
        kept = [np.count_nonzero(key > level) for key in keys]
        kept = np.maximum(kept, floors)
        if cost(kept) <= limit:
            return kept
    return kept


def draw(rng, kind, shape):
    w = rng.normal(size=shape)
    if kind == "ties":
        w = np.round(w, 1)
    elif kind == "zeros":
        w[rng.random(shape) < 0.4] = 0
    elif kind == "scales":  # each filter of its own
        w *= np.exp(4 * rng.normal(size=shape[-1]))
    elif kind == "numbers that are none":
        w[rng.random(shape) < 0.01] = np.nan
        w[rng.random(shape) < 0.01] = np.inf
    return w.astype("float32")


def net(rng, kind):
    net = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.Conv2D(40, 3, use_bias=False),
            layers.Conv2D(64, 3, use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, use_bias=False),
        ]
    )
    for weight in net.weights:
        weight.assign(draw(rng, kind, weight.shape))
    return net


@pytest.mark.parametrize(
    "arguments",
    [
        {"preset": "str"},
        {"preset": "str", "target_macs": True},
        {"preset": "str_filter", "min_density": 0.02},
        {"preset": "st3_sigma", "min_kept": 5},
        {"preset": "gmp"},
        {"preset": "autosparse", "mac_pressure": 0.5},
    ],
    ids=lambda arguments: "-".join(map(str, arguments.values())),
)
@pytest.mark.parametrize(
    "kind", ["normal", "ties", "zeros", "scales", "numbers that are none"]
)
def test_the_level_is_the_least_that_is_enough(kind, arguments):
    arguments = dict(arguments)
    target = "target_macs" if arguments.pop("target_macs", False) else "target_sparsity"
    for seed in range(3):
        rng = np.random.default_rng(seed)
        share = rng.uniform(0.3, 0.99)
        share = 1 - share if target == "target_macs" else share
        model = stk.sparsify(net(rng, kind), **arguments, **{target: share})
        for item in find_thresholded(model):
            if hasattr(item, "logit"):
                item.logit.assign(rng.uniform(-9, -1, item.logit.shape))
        loop = Loop(model)
        for reached in (0.001, *rng.uniform(0, 1, 3), 1.0):
            keys = [k.function(k.values) for k in model.pruning_keys(loop.pressure())]
            limit = loop.limit_at(reached)
            levels, kept = loop.solve(reached)
            expected = by_trying(keys, loop.floors, loop.cost, limit)
            assert kept.tolist() == expected.tolist()
            found = [
                np.count_nonzero(np.isnan(key) | (key > level))
                for key, level in zip(keys, levels, strict=True)
            ]
            if kind != "ties":  # at a floor they go or stay together
                assert found == kept.tolist()


def test_a_key_is_computed_for_few_weights():
    """What a change costs is a look at each weight, not its logarithm."""
    computed = []

    def function(values):
        computed.append(values.size)
        return np.log(values.astype("float64"))

    rng = np.random.default_rng(0)
    sizes = np.abs(rng.normal(size=1_000_000)).astype("float32")
    keys = ranking.Keys(sizes, function)
    level = float(np.log(np.quantile(sizes, 0.9)))
    assert keys.count_above(level) == np.count_nonzero(np.log(sizes) > level)
    assert sum(computed) < sizes.size / 20
