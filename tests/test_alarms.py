"""What watches a training: its loss at the end, thresholds against a forecast."""

import keras
import numpy as np
import pytest

import str_keras as stk
from str_keras.alarms import DriftAlarm, LossWatch


def make_model(**arguments):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="head")])
    return stk.sparsify(net, **arguments)


def data(n=200):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype("float32"), rng.normal(size=(n, 4))


class Losses(keras.callbacks.Callback):
    """The loss of each step, from the model itself."""

    def __init__(self):
        super().__init__()
        self.losses, self.mean = [], 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        self.losses.append(float(total - self.mean))
        self.mean = total


def test_the_largest_rise_of_the_loss_is_found():
    """Of 200 steps the last 20, in windows of two; the learning rate jumps there."""
    x, y = data()
    model = make_model()
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [189, 190], [0.0, 5.0, 0.0]
    )
    model.compile(stk.optimizers.SGD(rate), "mse")
    watch, seen = LossWatch(200), Losses()
    model.fit(x, y, 1, shuffle=False, verbose=0, callbacks=[watch, seen])
    last = np.reshape(seen.losses[180:], (10, 2)).mean(1)
    assert watch.largest_rise == pytest.approx(np.diff(last).max(), rel=1e-3)
    assert watch.largest_rise > 10 * np.abs(np.diff(last[:4])).max()
    short = LossWatch(200)
    assert short.largest_rise is None


@pytest.mark.parametrize(("actual", "rings"), [(0.02, False), (0.01, True)])
def test_drift_from_the_forecast_rings(actual, rings, capfd):
    """Forecast with a decay of 0.02; another one is an alarm, said once."""
    x, y = data(100)
    model = make_model(s_init=-400.0)

    def optimizer(decay):
        return stk.optimizers.SGD(0.1, momentum=0.5, threshold_decay=decay)

    forecast = stk.forecast(optimizer(0.02), 30, -400.0)
    model.compile(optimizer(actual), "mse")
    alarm = DriftAlarm(forecast, model)
    model.fit(x, y, 10, epochs=3, verbose=0, callbacks=[alarm])
    told = capfd.readouterr().err
    assert told.count("thresholds do not move as forecast") == int(rings)
    assert not rings or f"forecast was {forecast.logits[20]:.4g}" in told
