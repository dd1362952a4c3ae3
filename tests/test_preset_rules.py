"""The models of the published rules: by hand, by differences, by their limits."""

import math

import numpy as np
import preset_rules as rules
import pytest

EPSILON = 1e-6


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def slope(function, x):
    """The derivative of a scalar function by each element of x, central."""
    x = np.array(x, np.float64)
    result = np.empty_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += EPSILON
        down[index] -= EPSILON
        result[index] = (function(up) - function(down)) / (2 * EPSILON)
    return result


def kernel(rng, shape=(3, 3, 4, 6)):
    """Of clear cases: no |w| within 0.01 of 0 or of the threshold 0.5."""
    w = rng.normal(size=shape)
    near = np.abs(np.abs(w) - 0.5) < 0.01
    return np.where(near, 0.7, np.where(np.abs(w) < 0.01, 0.2, w))


def test_quantile_is_numpys_and_prunes_so_many(rng):
    w = rng.normal(size=997)
    for sparsity in (0.1, 0.5, 0.9, 0.98, 0.995):
        t = rules.quantile(np.abs(w), sparsity)
        np.testing.assert_allclose(t, np.quantile(np.abs(w), sparsity), rtol=1e-13)
        pruned = np.sum(~rules.active(w, t))
        assert pruned == math.floor(996 * sparsity) + 1


def test_ramp_is_cubic():
    steps = [rules.cubic(step, 10, 30, 0.8) for step in (0, 10, 20, 30, 99)]
    np.testing.assert_allclose(steps, [0, 0, 0.8 * 7 / 8, 0.8, 0.8])


def test_strs_gradients_are_the_derivatives(rng):
    w, s = kernel(rng), 0.0
    upstream = rng.normal(size=w.shape)
    to_w, to_s = rules.str_gradients(w, s, upstream)
    loss = lambda w, s: np.sum(upstream * rules.str_forward(w, s))  # noqa: E731
    np.testing.assert_allclose(to_w, slope(lambda w: loss(w, s), w), atol=1e-7)
    np.testing.assert_allclose(to_s, slope(lambda s: loss(w, s), s), rtol=1e-6)
    assert 0 < np.sum(to_w == 0) < w.size


def test_a_common_s_gets_the_derivative_of_all_layers(rng):
    kernels = [kernel(rng, shape) for shape in ((4, 5), (3, 3, 2, 2))]
    upstreams = [rng.normal(size=w.shape) for w in kernels]

    def loss(s):
        pairs = zip(kernels, upstreams, strict=True)
        return sum(np.sum(up * rules.str_forward(w, s)) for w, up in pairs)

    to_kernels, to_s = rules.str_global_gradients(kernels, 0.0, upstreams)
    np.testing.assert_allclose(to_s, slope(loss, 0.0), rtol=1e-6)
    for w, up, got in zip(kernels, upstreams, to_kernels, strict=True):
        np.testing.assert_array_equal(got, rules.str_gradients(w, 0.0, up)[0])


def test_decay_alone_moves_s_as_the_recipe_says():
    s, velocity, lr, momentum, decay = -3200.0, 0.0, 0.256, 0.875, 2.25e-5
    for _ in range(5000):
        s, velocity = rules.str_logit_step(s, velocity, 0.0, lr, momentum, decay)
    closed = -3200 * math.exp(-decay * 5000 * lr / (1 - momentum))
    assert abs(s / closed - 1) < 1e-3


def test_st3_rescales_by_what_survives():
    w = np.array([[1.0, 1.0, 0.1], [-3.0, 0.5, -0.1]])  # filters are columns
    shares = np.array([1.0, (0.5 + 1e-6) / (0.75 + 1e-6), 1e-6 / (0.1 + 1e-6)])
    scale = 1.01 / (shares + 0.01)
    np.testing.assert_allclose(rules.st3_scale(w, 0.5), scale[None])
    expected = [[0.5 * scale[0], 0.5 * scale[1], 0], [-2.5 * scale[0], 0, 0]]
    np.testing.assert_allclose(rules.st3_forward(w, 0.5), expected)
    np.testing.assert_array_equal(rules.st3_forward(w, 0), w)


def test_st3_scales_each_channel_of_a_depthwise_kernel():
    w = np.ones((3, 3, 2, 1))
    w[:2, :, 1] = 0.25
    scale = rules.st3_scale(w, 0.5, (-2, -1))
    share = (3 / 9 + 1e-6) / (0.5 + 1e-6)
    np.testing.assert_allclose(scale.ravel(), [1, 1.01 / (share + 0.01)])


def test_st3_passes_the_gradient_on_unscaled(rng):
    w = kernel(rng)
    upstream = rng.normal(size=w.shape)
    np.testing.assert_array_equal(rules.st3_gradients(w, 0.5, upstream), upstream)


@pytest.mark.parametrize(
    "thresholds", [rules.st3_thresholds, rules.st3_sigma_thresholds]
)
def test_st3_keeps_the_ramps_share_of_all_weights(rng, thresholds):
    kernels = [rng.normal(size=s) for s in ((3, 3, 4, 16), (1, 1, 16, 40), (40, 10))]
    size = sum(w.size for w in kernels)
    assert thresholds(5, kernels, 0.9, 5, 50) == [0, 0, 0]
    for step, share in ((27.5, 7 / 8), (50, 1), (90, 1)):
        levels = thresholds(step, kernels, 0.9, 5, 50)
        pairs = zip(kernels, levels, strict=True)
        pruned = sum(np.sum(~rules.active(w, t)) for w, t in pairs)
        assert pruned == math.floor((size - 1) * 0.9 * share) + 1


def test_sigma_is_of_the_sum_of_the_shape():
    assert rules.st3_sigma((3, 3, 4, 6)) == 0.25
    kernels = [np.linspace(0.1, 1, 12).reshape(2, 6), np.ones((3, 3, 4, 6))]
    wide, narrow = rules.st3_sigma_thresholds(9, kernels, 0.5, 0, 9)
    np.testing.assert_allclose(wide / narrow, (1 / math.sqrt(8)) / 0.25)


def test_feather_lies_between_soft_and_hard(rng):
    w = kernel(rng)
    np.testing.assert_allclose(rules.feather_forward(w, 0.5, 1), rules.soft(w, 0.5))
    np.testing.assert_allclose(
        rules.feather_forward(w, 0.5, 400), rules.hard(w, 0.5), rtol=1e-3
    )
    three = np.abs(rules.feather_forward(w, 0.5))
    mask = rules.active(w, 0.5)
    assert np.all(three[mask] > np.abs(rules.soft(w, 0.5))[mask])
    assert np.all(three[mask] < np.abs(w)[mask])
    assert rules.feather_forward(-2.0, 1.0) == -(7 ** (1 / 3))


def test_feather_replaces_the_operators_slope(rng):
    w = kernel(rng)
    upstream = rng.normal(size=w.shape)
    mask = rules.active(w, 0.5)
    got = rules.feather_gradients(w, 0.5, upstream, 0.5)
    np.testing.assert_array_equal(got, np.where(mask, upstream, upstream / 2))
    true = slope(lambda w: np.sum(upstream * rules.feather_forward(w, 0.5)), w)
    assert np.all(np.abs(true[mask]) > np.abs(got[mask]))
    assert [rules.feather_theta(f) for f in (0.9, 0.95, 0.951, 0.98)] == [
        1,
        1,
        0.5,
        0.5,
    ]


def test_feather_reaches_its_sparsity_at_half_time(rng):
    kernels = [rng.normal(size=(20, 50)), 3 * rng.normal(size=(50, 10))]
    every = np.abs(np.concatenate([w.ravel() for w in kernels]))
    assert rules.feather_thresholds(0, kernels, 0.9, 101) == [0, 0]
    for step, sparsity in ((25, 0.9 * 7 / 8), (50, 0.9), (100, 0.9)):
        levels = rules.feather_thresholds(step, kernels, 0.9, 101)
        np.testing.assert_allclose(levels, [np.quantile(every, sparsity)] * 2)


def test_autosparse_runs_from_straight_through_to_strs_gradients(rng):
    w, s = kernel(rng), 0.0
    upstream = rng.normal(size=w.shape)
    to_w, to_s = rules.autosparse_gradients(w, s, upstream, 0)
    expected_w, expected_s = rules.str_gradients(w, s, upstream)
    np.testing.assert_array_equal(to_w, expected_w)
    np.testing.assert_allclose(to_s, expected_s, rtol=1e-12)

    def unclipped(s):  # alpha = 1: the derivative of sign(w) (|w| - g(s))
        return np.sum(upstream * (w - np.sign(w) * rules.sigmoid(s)))

    whole_w, whole_s = rules.autosparse_gradients(w, s, upstream, 1)
    np.testing.assert_array_equal(whole_w, upstream)
    np.testing.assert_allclose(whole_s, slope(unclipped, s), rtol=1e-6)
    some_w, some_s = rules.autosparse_gradients(w, s, upstream, 0.25)
    np.testing.assert_allclose(some_w, 0.75 * to_w + 0.25 * whole_w)
    np.testing.assert_allclose(some_s, 0.75 * to_s + 0.25 * whole_s)


def test_autosparses_filters_have_thresholds_of_their_own(rng):
    w = kernel(rng)
    s = np.linspace(-2, 1, w.shape[-1])
    upstream = rng.normal(size=w.shape)
    _, to_s = rules.autosparse_gradients(w, s, upstream, 0.3)
    assert to_s.shape == s.shape
    for f in range(s.size):
        each = rules.autosparse_gradients(w[..., f], s[f], upstream[..., f], 0.3)[1]
        np.testing.assert_allclose(to_s[f], each)


def test_alpha_anneals_by_sigmoid_then_cosine():
    quarter = 0.5 / (1 + math.exp(-3))
    three = 0.5 * (1 - math.sqrt(0.5)) / 2
    got = [rules.autosparse_alpha(e, 100, 0.5, 90) for e in (0, 25, 50, 75, 89, 90, 99)]
    last = 0.25 * (1 + math.cos(0.89 * math.pi))
    np.testing.assert_allclose(got, [0.5, quarter, 0.25, three, last, 0, 0])


def test_lats_rises_as_a_cosine_learning_rate_adds_up():
    assert rules.lats_threshold(0, 200, 0.1) == 0
    np.testing.assert_allclose(rules.lats_threshold(200, 200, 0.1), 0.1)
    for step in (20.0, 100.0, 150.0):
        got = slope(lambda n: rules.lats_threshold(n, 200, 0.1), step)
        cosine = 1 + math.cos(math.pi * step / 200)
        np.testing.assert_allclose(got, 0.1 / 200 * cosine, rtol=1e-6)


def test_lats_by_epochs_has_no_jump_and_ends_at_its_threshold():
    at = lambda epoch, batch: rules.lats_epoch_threshold(epoch, 8, batch, 5, 0.1)  # noqa: E731
    assert at(0, 0) == 0
    np.testing.assert_allclose(at(7, 5), 0.1)
    for epoch in range(7):
        np.testing.assert_allclose(at(epoch, 5), at(epoch + 1, 0))
        rise = at(epoch, 1) - at(epoch, 0)
        cosine = 1 + math.cos(math.pi * epoch / 8)
        np.testing.assert_allclose(rise, 0.1 * cosine / 5 / 9)


def test_lats_gradient_is_straight_through_but_at_zero():
    w, upstream = np.array([-1.0, -0.2, 0, 0.3]), np.array([1.0, 2, 3, 4])
    np.testing.assert_array_equal(
        rules.lats_forward(w, 0.25), [-0.75, 0, 0, 0.3 - 0.25]
    )
    np.testing.assert_array_equal(rules.lats_gradients(w, 0.25, upstream), [1, 2, 0, 4])


def test_gmp_and_dnw_differ_in_the_gradient_alone(rng):
    w = rng.normal(size=(7, 9))
    upstream = rng.normal(size=w.shape)
    t = rules.layer_threshold(w, 0.9)
    assert np.sum(~rules.active(w, t)) == int(0.9 * 63) == 56
    np.testing.assert_array_equal(rules.gmp_forward(w, t), rules.dnw_forward(w, t))
    true = slope(lambda w: np.sum(upstream * rules.gmp_forward(w, t)), w)
    clear = np.abs(np.abs(w) - t) > 2 * EPSILON  # but for the weight on the threshold
    got = rules.gmp_gradients(w, t, upstream)
    np.testing.assert_allclose(got[clear], true[clear], atol=1e-7)
    np.testing.assert_array_equal(rules.dnw_gradients(w, t, upstream), upstream)
    np.testing.assert_array_equal(rules.hard(w, rules.layer_threshold(w, 0.01)), w)


def test_gmps_rate_stops_just_short():
    rates = [rules.gmp_rate(epoch, 0.9) for epoch in (0, 20, 50, 79, 99)]
    last = 0.9 * (1 - 1 / 60**3)
    np.testing.assert_allclose(rates, [0, 0, 0.9 * 7 / 8, last, last])
