"""Schedules against the recipe in float64, and the forecast of what they do to s."""

import time

import keras
import numpy as np
import pytest

from str_keras import register_g, schedules
from str_keras.forecasting import forecast, learning_rates, suggest_s_init
from str_keras.optimizers import SGD, Adam, AdamW
from str_keras.schedules import WarmupCosine, WarmupSteps

IMAGENET = (0.256, 5005, 100, 5)  # peak, steps an epoch, epochs, warm-up
SHORT = (0.1, 39, 12, 1)


def recipe(peak, steps_per_epoch, epochs, warmup):
    """FACTS of the published training: one rate an epoch, in float64."""
    epoch = np.arange(epochs, dtype="float64")
    cosine = peak / 2 * (1 + np.cos(np.pi * (epoch - warmup) / (epochs - warmup)))
    rate = np.where(epoch < warmup, peak * (epoch + 1) / max(warmup, 1), cosine)
    return np.repeat(rate, steps_per_epoch)


def sgd(setting, decay, momentum=0.875, **kwargs):
    return SGD(WarmupCosine(*setting), momentum, weight_decay=decay, **kwargs)


@pytest.mark.parametrize("setting", [IMAGENET, SHORT, (0.1, 7, 9, 0)])
def test_cosine_is_the_recipe_in_every_epoch(setting):
    schedule, expected = WarmupCosine(*setting), recipe(*setting)
    first = np.arange(setting[2]) * setting[1]
    for steps in (first, first + setting[1] - 1):
        got = keras.ops.convert_to_numpy(schedule(steps))
        assert got.dtype == "float32"
        np.testing.assert_allclose(got, expected[steps], rtol=2e-6)
    every = schedules.evaluate(schedule, len(expected))
    np.testing.assert_allclose(every, expected, rtol=2e-6)
    assert float(schedule(len(expected) + 3)) == 0.0


@pytest.mark.parametrize("step", [0, 4 * 5005 + 5004, 5 * 5005, 2**24 + 1])
def test_one_step_of_any_kind(step):
    schedule = WarmupCosine(0.256, 5005, 5000)
    expected = recipe(0.256, 1, 5000, 5)[step // 5005]
    for kind in (
        int,
        np.int64,
        lambda s: keras.Variable(s, trainable=False, dtype="int32"),
    ):
        got = float(keras.ops.convert_to_numpy(schedule(kind(step))))
        np.testing.assert_allclose(got, expected, rtol=2e-6)


def test_smooth_variant_is_the_recipe_in_steps():
    got = schedules.evaluate(WarmupCosine(*SHORT, per_epoch=False), 468)
    np.testing.assert_allclose(got, recipe(0.1, 1, 468, 39), rtol=2e-6)


def test_steps_fall_at_milestones():
    schedule = WarmupSteps(0.1, 10, 100, 5, milestones=[30, 60, 90])
    got = schedules.evaluate(schedule, 1000)
    epoch = np.repeat(np.arange(100), 10)
    fallen = sum((epoch >= m).astype(int) for m in (30, 60, 90))
    expected = np.minimum(0.1 * (epoch + 1) / 5, 0.1) * 0.1**fallen
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    by_name = schedules.create("step", 0.1, 10, 100)
    np.testing.assert_array_equal(schedules.evaluate(by_name, 1000), got)
    np.testing.assert_array_equal(
        schedules.evaluate(schedules.create("constant", 0.1, 10, 5, 0), 50),
        np.float32(0.1),
    )


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("per_epoch", [True, False])
def test_round_trip(name, per_epoch):
    schedule = schedules.create(name, 0.1, 7, 10, 2, per_epoch)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert again.get_config() == schedule.get_config()
    expected = schedules.evaluate(schedule, 80)
    np.testing.assert_array_equal(schedules.evaluate(again, 80), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peak": float("nan")}, r"`peak` must be a number.*peak=nan"),
        ({"peak": -0.1}, r"peak=-0\.1"),
        ({"peak": "0.1"}, r"peak='0\.1'"),
        ({"steps_per_epoch": 0}, r"`steps_per_epoch` must be an integer.*=0"),
        ({"steps_per_epoch": 39.5}, r"steps_per_epoch=39\.5"),
        ({"epochs": -1}, r"epochs=-1"),
        ({"warmup_epochs": -1}, r"warmup_epochs=-1"),
        ({"epochs": 4}, r"lower `warmup_epochs`.*epochs=4, warmup_epochs=5"),
        ({"name": "cosinus"}, r"one of constant, cosine, step.*'cosinus'"),
        ({"milestones": [3]}, r'Only the schedule "step".*milestones=\[3\]'),
        ({"name": "step", "milestones": [6, 3]}, r"rising epochs"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"name": "cosine", "peak": 0.1, "steps_per_epoch": 39, "epochs": 12}
    with pytest.raises(ValueError, match=message):
        schedules.create(**{**arguments, **change})


@pytest.mark.parametrize(
    "schedule",
    [
        keras.optimizers.schedules.CosineDecay(
            0.1, 90_000, warmup_target=0.2, warmup_steps=100
        ),
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [777, 50_001], [1.0, 0.1, 0.0]
        ),
        keras.optimizers.schedules.ExponentialDecay(0.1, 1000, 0.9, staircase=True),
    ],
    ids=lambda s: type(s).__name__,
)
def test_any_keras_schedule_is_evaluated(schedule):
    got = schedules.evaluate(schedule, 100_000)
    some = [0, 1, 99, 100, 777, 778, 999, 1000, 50_001, 50_002, 89_999, 99_999]
    expected = [float(keras.ops.convert_to_numpy(schedule(step))) for step in some]
    np.testing.assert_allclose(got[some], expected, rtol=1e-3, atol=1e-7)


def test_schedule_of_single_steps_is_sampled():
    class OfOne(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 if int(step) < 12_345 else 0.01 / (1 + int(step))

    got = schedules.evaluate(OfOne(), 100_000)
    expected = np.where(np.arange(100_000) < 12_345, 0.1, 0.01 / np.arange(1, 100_001))
    np.testing.assert_allclose(got, expected, rtol=2e-3)


# Forecast


def test_imagenet_recipe_in_numbers():
    optimizer = sgd(IMAGENET, 2.251757813e-5)
    start = time.perf_counter()
    told = forecast(optimizer, 500_500, s_init=-3200.0, steps_per_epoch=5005)
    assert time.perf_counter() - start < 20  # 0.5 s on an idle machine
    scale = learning_rates(optimizer, 500_500).sum() / (1 - 0.875)
    assert round(scale) == 522_762
    assert told.total_decay == pytest.approx(11.77, abs=0.005)
    assert told.closed_form_s == pytest.approx(-3200 * np.exp(-told.total_decay))
    assert told.final_s == pytest.approx(told.closed_form_s, rel=5e-3)
    assert (told.verdict, told.warnings) == ("prunes", ())
    assert "1e-4 at step 142,169 (epoch 28.4, 28% of training)" in str(told)


def test_imagenets_decay_prunes_nothing_on_cifar10():
    """The authors' issue #2: 100 epochs of 196 steps under ImageNet's lambda."""
    optimizer = sgd((0.256, 196, 100, 5), 2.251757813e-5)
    told = forecast(optimizer, 19_600, s_init=-3200.0)
    assert told.total_decay == pytest.approx(0.46, abs=0.005)
    assert told.final_s == pytest.approx(-2018, abs=1)
    assert told.active_step is None and told.large_step is None
    assert told.suggested_s_init is None
    assert told.verdict == "nothing"
    assert "warning: nothing would be pruned" in str(told)
    assert "never" in str(told)


def test_short_run_prunes():
    told = forecast(sgd(SHORT, 5e-4, threshold_decay=0.03), 468, s_init=-40.0)
    assert told.verdict == "prunes" and not told.warnings
    assert 0.1 < told.active_step / 468 < told.large_step / 468 < 0.2


@pytest.mark.parametrize(
    "momentum, nesterov", [(0.875, False), (0.9, True), (0.0, False)]
)
def test_forecast_is_what_the_optimizer_does(momentum, nesterov):
    """Beside a zero gradient; the step of a threshold is the first that passes it."""
    optimizer = sgd(
        (0.1, 5, 12, 2), 0.0, momentum, nesterov=nesterov, threshold_decay=0.1
    )
    told = forecast(optimizer, 60, s_init=-40.0)
    s = keras.Variable(-40.0, name="threshold_logit")
    course = [-40.0]
    for _ in range(60):
        optimizer.apply([keras.ops.zeros(())], [s])
        course.append(float(keras.ops.convert_to_numpy(s)))
    np.testing.assert_allclose(told.logits, course, rtol=1e-5, atol=1e-5)
    g = 1 / (1 + np.exp(-np.array(course)))
    for limit, step in ((1e-4, told.active_step), (1e-2, told.large_step)):
        assert step == (np.argmax(g >= limit) if (g >= limit).any() else None)


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_forecast_of_adam_and_of_loss_scaling(make):
    inner = make(
        1e-3, threshold_decay=0.3, threshold_lr_multiplier=50.0, threshold_momentum=0.5
    )
    told = forecast(keras.optimizers.LossScaleOptimizer(inner), 300, s_init=-40.0)
    assert told.total_decay == pytest.approx(0.3 * 300 * 0.05 / 0.5, rel=1e-6)
    same = SGD(0.05, 0.5, threshold_decay=0.3)
    np.testing.assert_allclose(
        told.logits, forecast(same, 300, -40.0).logits, rtol=1e-6
    )


def test_accumulated_batches_decay_once():
    """Steps are the optimizer's, however many batches each takes."""
    optimizer = SGD(0.1, 0.5, weight_decay=0.2, gradient_accumulation_steps=4)
    logits = forecast(optimizer, 10, s_init=-40.0).logits
    expected = forecast(SGD(0.1, 0.5, weight_decay=0.2), 10, s_init=-40.0).logits
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("g", ["sigmoid", "exp"])
@pytest.mark.parametrize("at", [0.1, 0.2, 0.5])
def test_suggested_s_init_sets_in_when_asked(g, at):
    optimizer = sgd(IMAGENET, 2.251757813e-5)
    s_init = suggest_s_init(optimizer, 500_500, g, reach=1e-4, at=at)
    told = forecast(optimizer, 500_500, s_init, g)
    assert abs(told.active_step / 500_500 - at) < 1e-4
    if at == 0.2:
        assert told.suggested_s_init == pytest.approx(s_init)


def test_suggestion_brackets_the_published_runs():
    """s_init of the paper sets in between 8 and 39 % of training; ours at 20 %."""
    for decay, published in ((2.251757813e-5, -3200.0), (3.751757813e-5, -12800.0)):
        optimizer = sgd(IMAGENET, decay)
        early, late = (suggest_s_init(optimizer, 500_500, at=at) for at in (0.08, 0.39))
        assert late < published < early


def test_registered_g():
    softplus = register_g("forecast_softplus", keras.ops.softplus, s_init=-30.0)
    optimizer = sgd(SHORT, 0.03)
    told = forecast(optimizer, 468, g=softplus)
    near = forecast(optimizer, 468, -30.0, g="exp")  # softplus(s) = exp(s) far below 0
    assert told.s_init == -30.0
    assert (told.active_step, told.large_step) == (near.active_step, near.large_step)
    assert told.suggested_s_init == pytest.approx(near.suggested_s_init, rel=1e-3)


def kernels(scale):
    rng = np.random.default_rng(0)
    return [rng.normal(scale=scale, size=(9, 9)), rng.normal(scale=1, size=(5, 5))]


@pytest.mark.parametrize(
    "decay, s_init, weights, verdict, warning",
    [
        (0.0, -40.0, None, "nothing", "nothing would be pruned"),
        (0.006, -25.0, None, "prunes", "little would be pruned: g(s) ends at 0.00"),
        (0.5, -40.0, None, "everything", "s overshoots 0"),
        (0.03, -5.0, None, "everything", "passes the size of weights (0.01)"),
        (0.03, -8.0, kernels(0.2), "prunes", "s starts active"),
        (0.03, -8.0, kernels(1e-3), "everything", "the largest weight of a layer"),
        (0.03, 3.0, None, "everything", "s starts active: g(s_init) = 0.95"),
        (0.006, -25.0, kernels(100.0), "nothing", "start from s_init ="),
    ],
)
def test_verdicts(decay, s_init, weights, verdict, warning):
    optimizer = sgd(SHORT, 5e-4, threshold_decay=decay)
    told = forecast(optimizer, 468, s_init, kernels=weights)
    assert told.verdict == verdict
    assert warning in str(told)


def test_keras_own_optimizer_is_refused():
    for theirs in (
        keras.optimizers.SGD(0.1, weight_decay=0.1),
        keras.optimizers.Adam(),
    ):
        with pytest.raises(TypeError, match=r"decoupled .* use SGD, Adam or AdamW"):
            forecast(theirs, 100, -40.0)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"steps": 0}, ValueError, "steps=0"),
        ({"s_init": float("nan")}, ValueError, "s_init=nan"),
        ({"g": "tanh"}, ValueError, "g='tanh'"),
        ({"steps_per_epoch": -1}, ValueError, "steps_per_epoch=-1"),
        ({"optimizer": SGD(lambda: 0.1)}, TypeError, "known in advance"),
    ],
)
def test_forecast_names_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        forecast(**{"optimizer": SGD(0.1), "steps": 10, "s_init": -40.0, **change})


def test_rates_that_are_not_numbers_are_refused():
    class Broken(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return keras.ops.where(step > 5, float("nan"), 0.1)

    with pytest.raises(ValueError, match="learning_rate=nan at step 6"):
        forecast(SGD(Broken(), weight_decay=0.1), 10)


@pytest.mark.parametrize(
    "decay, change, message",
    [
        (0.03, {"at": 0.0}, "above 0"),
        (0.03, {"at": 1.0}, r"`at` must be .* below 1"),
        (0.03, {"reach": -1.0}, "reach=-1"),
        (0.03, {"reach": 0.7}, "never passes"),
        (1e-4, {}, "too weak"),
        (0.2, {"at": 0.15}, "so strong"),
    ],
)
def test_no_suggestion_where_there_is_none(decay, change, message):
    with pytest.raises(ValueError, match=message):
        suggest_s_init(sgd(SHORT, decay), 468, **change)
