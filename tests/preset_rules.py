"""The published rule behind each preset in plain NumPy float64, one section each.

In every section: `*_forward(w, ...)` gives the kernel that the layer uses,
`*_gradients(w, ..., upstream)` what reaches the raw kernel (and s, where thresholds are
learned) of the gradient to that kernel, and `*_threshold*(step, ...)` what is in force
in the forward pass of that training step, counted from 0, on the weights as they are
then. A weight is kept where |w| > t, strictly. Weight decay is on raw kernels, pruned
weights included, added to the gradient before momentum.

Source: the authors' code as far as there is any, else as each section says. Written
from the formulas; independent of the library.
"""

import numpy as np


def float64(values):
    return np.asarray(values, np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-float64(x)))


# Shared


def active(w, t):
    return np.abs(float64(w)) > t


def soft(w, t):
    """sign(w) relu(|w| - t)."""
    w = float64(w)
    return np.where(active(w, t), w - np.sign(w) * t, 0)


def hard(w, t):
    """w 1[|w| > t]."""
    return np.where(active(w, t), float64(w), 0)


def cubic(step, begin, end, final):
    """Sparsity at a step: 0 until `begin`, from `end` on `final`.

    Zhu and Gupta 2017 with no sparsity at first: final (1 - (1 - x)^3).
    """
    x = np.clip((step - begin) / (end - begin), 0, 1)
    return final * (1 - (1 - x) ** 3)


def quantile(magnitudes, sparsity):
    """Linear between order statistics: at position (n - 1) sparsity, counted from 0.

    So floor((n - 1) sparsity) + 1 of n different magnitudes are pruned, and none at 0.
    """
    ordered = np.sort(float64(magnitudes), axis=None)
    position = (ordered.size - 1) * sparsity
    low = int(np.floor(position))
    high = int(np.ceil(position))
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def global_thresholds(kernels, sparsity, sigmas=None):
    """One quantile over all |w| / sigma; in units of each kernel: quantile * sigma.

    No threshold (0) while the sparsity is 0.
    """
    if sigmas is None:
        sigmas = [1.0] * len(kernels)
    if sparsity == 0:
        return [0.0] * len(kernels)
    scores = [
        np.abs(float64(w)).ravel() / s for w, s in zip(kernels, sigmas, strict=True)
    ]
    level = quantile(np.concatenate(scores), sparsity)
    return [level * sigma for sigma in sigmas]


# str: Kusupati et al. 2020, RAIVNLab/STR utils/conv_type.py


def str_threshold(s):
    """g(s) = sigmoid(s), s one a layer."""
    return sigmoid(s)


def str_forward(w, s):
    return soft(w, str_threshold(s))


def str_gradients(w, s, upstream):
    """To w, 0 for pruned weights, and to s: the true derivatives."""
    t = str_threshold(s)
    mask = active(w, t)
    slope = t * (1 - t)
    return mask * upstream, -slope * sum_like(s, mask * np.sign(w) * upstream)


def sum_like(s, terms):
    """The sum of a kernel's terms for each s: one, or one a filter."""
    s = np.asarray(s)
    missing = tuple(
        axis
        for axis in range(terms.ndim)
        if axis < terms.ndim - s.ndim or s.shape[axis - terms.ndim + s.ndim] == 1
    )
    return np.sum(terms, axis=missing, keepdims=True).reshape(s.shape)


def str_logit_step(s, velocity, gradient, lr, momentum, decay):
    """One step of SGD with coupled decay, which is what moves s; (s, velocity)."""
    velocity = momentum * velocity + gradient + decay * s
    return s - lr * velocity, velocity


# str_global: one s for all layers; the paper only, the authors' code has no such option


def str_global_gradients(kernels, s, upstreams):
    """To each kernel, and to the common s: the sum over kernels of str's."""
    pairs = [
        str_gradients(w, s, upstream)
        for w, upstream in zip(kernels, upstreams, strict=True)
    ]
    return [pair[0] for pair in pairs], sum(pair[1] for pair in pairs)


# st3: Vanderschueren and De Vleeschouwer 2023, vanderschuea/stthree,
# stthree/models/layers/quantized.py (forward), stthree/trainmodules/pruning.py (ramp)


def st3_scale(w, t, filter_axes=(-1,)):
    """By filter 1.01 / (r + 0.01), r the share of the raw |w| that survives."""
    magnitude = np.abs(float64(w))
    kept = [axis % magnitude.ndim for axis in filter_axes]
    axes = tuple(axis for axis in range(magnitude.ndim) if axis not in kept)
    survivors = np.mean(magnitude * (magnitude > t), axis=axes, keepdims=True)
    share = (survivors + 1e-6) / (np.mean(magnitude, axis=axes, keepdims=True) + 1e-6)
    return 1.01 / (share + 0.01)


def st3_forward(w, t, filter_axes=(-1,)):
    """Soft threshold, filters scaled up; the plain kernel while there is no threshold.

    `filter_axes`: -1 of a dense or convolution kernel, (-2, -1) of a depthwise one.
    """
    if t <= 0:
        return float64(w)
    return soft(w, t) * st3_scale(w, t, filter_axes)


def st3_gradients(w, t, upstream):
    """Straight through: to all weights the same, without the filters' scale."""
    return float64(upstream)


def st3_thresholds(step, kernels, final, begin, end):
    """The global quantile at the ramp's sparsity, anew at every step to the last.

    Published: begin and end at epochs 5 and 50 of 100 (ImageNet), 5 and 80 of 160
    (CIFAR-10). All kernels count, the first layer's and the last one's too.
    """
    return global_thresholds(kernels, cubic(step, begin, end, final))


# st3_sigma: as st3, but for the threshold ("l1std" there)


def st3_sigma(shape):
    """1 / sqrt(sum of the kernel's shape): sum, not product."""
    return 1 / np.sqrt(float(sum(shape)))


def st3_sigma_thresholds(step, kernels, final, begin, end):
    sigmas = [st3_sigma(np.shape(w)) for w in kernels]
    return global_thresholds(kernels, cubic(step, begin, end, final), sigmas)


# feather: Glentis Georgoulakis et al. 2023, athglentis/feather sparse_utils.py


def feather_forward(w, t, p=3):
    """sign(w) (|w|^p - t^p)^(1/p): p = 1 is soft, p to infinity hard; 3 there."""
    w = float64(w)
    rest = np.maximum(np.abs(w) ** p - t**p, 0)
    return np.where(active(w, t), np.sign(w) * rest ** (1 / p), 0)


def feather_theta(final):
    """0.5 above 95 % of final sparsity, else 1; 95 % itself is not above."""
    return 0.5 if final > 0.95 else 1.0


def feather_gradients(w, t, upstream, theta):
    """Whole for active weights, whatever the operator's slope; theta for others."""
    return np.where(active(w, t), 1.0, theta) * upstream


def feather_thresholds(step, kernels, final, steps, begin=0):
    """The global quantile on a cubic ramp that ends at half of the training."""
    return global_thresholds(kernels, cubic(step, begin, steps // 2, final))


# autosparse: Kundu et al. 2023. No code of the authors was found: the gradients and the
# annealing are those of PQuantML 0.1.0, core/keras/pruning_methods/autosparse.py.


def autosparse_forward(w, s):
    """As str's; s one a layer or, broadcast to w, one a filter."""
    return soft(w, sigmoid(s))


def autosparse_gradients(w, s, upstream, alpha):
    """To w and to s; pruned weights count alpha in both, not in w alone as in others.

    A weight of exactly 0 gets none: sign(w) is 0.
    """
    w, s = float64(w), float64(s)
    t = sigmoid(s)
    weight = np.where(active(w, t), 1.0, alpha)
    to_threshold = -t * (1 - t) * np.sign(w) * weight * upstream
    to_s = sum_like(s, to_threshold)
    return np.where(w == 0, 0.0, weight * upstream), to_s


def autosparse_alpha(epoch, epochs, first, reset=np.inf):
    """first * max(cosine, sigmoid) decay, 0 from epoch `reset` on.

    The sigmoid, from 6 to -6, is the larger in the first half, the cosine in the
    second. PQuantML sets it at the end of an epoch, so for the next one; its defaults
    are first = 0.5, reset = 90 of 100 epochs.
    """
    if epoch >= reset:
        return 0.0
    x = epoch / epochs
    return first * max((1 + np.cos(np.pi * x)) / 2, 1 - sigmoid(12 * x - 6))


# lats: Chen et al. 2023 ("A Unified Framework for Soft Threshold Pruning"),
# Yanqi-Chen/LATS trainer.py and utils/conv_type.py


def lats_forward(w, t):
    return soft(w, t)


def lats_gradients(w, t, upstream):
    """Straight through, but for a weight of exactly 0, whose sign is 0."""
    return np.where(float64(w) == 0, 0.0, upstream)


def lats_threshold(step, steps, final):
    """The simplified schedule (S-LATS): D (sin(pi x) / pi + x), one for all kernels."""
    x = step / steps
    return final * (np.sin(np.pi * x) / np.pi + x)


def lats_epoch_threshold(epoch, epochs, batch, batches, final):
    """LATS as such: linear within an epoch, steps like a cosine learning rate's."""
    half = np.pi / (2 * epochs)
    base = 1 + 2 * epoch + np.sin((2 * epoch - 1) * half) / np.sin(half)
    slope = 1 + np.cos(np.pi * epoch / epochs)
    return final * (base / 2 + slope * batch / batches) / (epochs + 1)


# gmp and dnw: the baselines of RAIVNLab/STR utils/conv_type.py and main.py


def layer_threshold(w, rate):
    """The int(rate n)-th smallest |w| of the kernel: so many are pruned, ties aside."""
    ordered = np.sort(np.abs(float64(w)), axis=None)
    pruned = int(rate * ordered.size)
    return ordered[pruned - 1] if pruned else 0.0


def gmp_forward(w, t):
    return hard(w, t)


def gmp_gradients(w, t, upstream):
    """Pruned weights get none; decay and momentum still move them."""
    return active(w, t) * upstream


def gmp_rate(epoch, final, begin=20, end=79):
    """Set before an epoch; stays as of epoch `end`, by (1/60)^3 of `final` short."""
    span = end - begin + 1
    return cubic(min(epoch, end), begin, begin + span, final)


def dnw_forward(w, t):
    return hard(w, t)


def dnw_gradients(w, t, upstream):
    """Straight through, at the full rate from the first step on."""
    return float64(upstream)
