"""What is published of each preset, in terms of `preset_rules`."""

import dataclasses
from collections.abc import Callable

import numpy as np
import preset_rules as rules

STEPS = 20
"""Of the training that the ramps below are for."""


@dataclasses.dataclass
class Case:
    """A preset, and what is published of it.

    Args:
        arguments: Of `sparsify`.
        forward: From kernel, threshold, filter axes to the kernel that is read.
        to_kernel: From kernel, threshold, upstream, present share to the gradient.
        ramp: Steps of `STEPS` at which the ramp begins and ends.
        final: The sparsity to end at; None: thresholds go their own way.
        by: "global", "sigma" or "layer" quantiles, or "offset" of learned logits.
        share: From a step to the present share of pruned weights.
        to_logit: From kernel, logit, upstream, present share to its gradient.
    """

    arguments: dict
    forward: Callable
    to_kernel: Callable
    ramp: tuple[int, int] = (2, 14)
    final: float | None = 0.9
    by: str = "offset"
    share: Callable[[int], float] = lambda step: 0.0
    to_logit: Callable | None = None

    @property
    def name(self):
        return "-".join(str(value) for value in self.arguments.values())


def forward_soft(w, t, axes):
    return rules.soft(w, t)


def str_case(preset, **arguments):
    return Case(
        {"preset": preset, **arguments},
        forward_soft,
        lambda w, t, u, share: rules.active(w, t) * u,
        final=arguments.get("target_sparsity"),
        to_logit=lambda w, s, u, share: rules.str_gradients(w, s, u)[1],
    )


def autosparse_case(**arguments):
    return Case(
        {"preset": "autosparse", **arguments},
        forward_soft,
        lambda w, t, u, share: np.where(rules.active(w, t), 1.0, share) * u,
        final=arguments.get("target_sparsity"),
        share=lambda step: rules.autosparse_alpha(step, STEPS, 0.5, 0.9 * STEPS),
        to_logit=lambda w, s, u, share: rules.autosparse_gradients(w, s, u, share)[1],
    )


def st3_case(preset, by):
    return Case(
        {"preset": preset, "target_sparsity": 0.9},
        rules.st3_forward,
        lambda w, t, u, share: rules.st3_gradients(w, t, u),
        ramp=(1, 10),
        by=by,
        share=lambda step: 1.0,
    )


def feather_case(final):
    theta = rules.feather_theta(final)
    return Case(
        {"preset": "feather", "target_sparsity": final},
        lambda w, t, axes: rules.feather_forward(w, t),
        lambda w, t, u, share: rules.feather_gradients(w, t, u, theta),
        ramp=(0, STEPS // 2),
        final=final,
        by="global",
        share=lambda step: theta,
    )


def lats_case(**arguments):
    return Case(
        {"preset": "lats", **arguments},
        forward_soft,
        lambda w, t, u, share: rules.lats_gradients(w, t, u),
        final=arguments.get("target_sparsity"),
        by="lats",
        share=lambda step: 1.0,
    )


LEARNED = {"target_sparsity": 0.9, "s_init": -6.0}
CASES = [
    str_case("str", s_init=-4.0),
    str_case("str", **LEARNED),
    str_case("str_filter", **LEARNED),
    str_case("str_global", s_init=-4.0),
    str_case("str_global", **LEARNED),
    st3_case("st3", "global"),
    st3_case("st3_sigma", "sigma"),
    feather_case(0.9),
    feather_case(0.95),
    feather_case(0.98),
    autosparse_case(),
    autosparse_case(target_sparsity=0.9),
    autosparse_case(granularity="filter"),
    lats_case(target_sparsity=0.9),
    lats_case(threshold="scheduled(0.0625)"),
    Case(
        {"preset": "gmp", "target_sparsity": 0.9},
        lambda w, t, axes: rules.gmp_forward(w, t),
        lambda w, t, u, share: rules.gmp_gradients(w, t, u),
        ramp=(4, 16),
        by="layer",
    ),
    Case(
        {"preset": "dnw", "target_sparsity": 0.9},
        lambda w, t, axes: rules.dnw_forward(w, t),
        lambda w, t, u, share: rules.dnw_gradients(w, t, u),
        ramp=(0, 0),
        by="layer",
        share=lambda step: 1.0,
    ),
]
