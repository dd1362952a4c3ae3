"""The methods of training by name, and which settings each reads."""

from __future__ import annotations

from str_keras.presets import PRESETS

METHODS = {
    "str": "learn a threshold per layer (or --granularity)",
    "str_filter": PRESETS["str_filter"].help,
    "str_global": "learn one threshold for the network",
    "dense": "the same net without",
    **{
        name: PRESETS[name].help
        for name in ("st3", "st3_sigma", "feather", "autosparse", "lats")
    },
    "gmp": "gradual magnitude pruning, every layer at --sparsity",
    "dnw": "the largest weights from the first step on, gradient to all",
    "uniform_oneshot": "prune once, midway between --prune_begin and --prune_end",
    "erk_rigl_static": "random zeros from the first step on, at the rates of ERK",
    "budget_gmp": "gmp at the rates of --budget",
    "budget_dnw": "dnw at the rates of --budget",
}
LEARNED = ("str", "str_filter", "str_global", "autosparse")
AT_BUDGET = ("budget_gmp", "budget_dnw")
AT_RATE = ("gmp", "dnw", "uniform_oneshot", "erk_rigl_static")
"""Methods that take --sparsity: one rate for every layer."""
TIMED = ("gmp", "budget_gmp", "uniform_oneshot")
"""Methods without a target that prune between `prune_begin` and `prune_end`."""
TARGETS = ("target_sparsity", "target_macs", "target_bytes")
OF_LEARNED = ("s_init", "g", "granularity", "threshold_decay")
"""Fields that learned thresholds read, of `LEARNED` or of --threshold=learned."""
ONLY_FOR = {
    **dict.fromkeys(OF_LEARNED, (*LEARNED, "--threshold=learned")),
    **dict.fromkeys(("prune_begin", "prune_end"), (*PRESETS, *TIMED)),
    **dict.fromkeys(("skip", "policy"), tuple(m for m in METHODS if m != "dense")),
    **dict.fromkeys(
        (*TARGETS, "min_density", "min_kept", "min_per_channel", "mac_pressure"),
        tuple(PRESETS),
    ),
    **dict.fromkeys(("operator", "backward", "threshold"), tuple(PRESETS)),
}
"""Fields that other methods do not read, by name."""
