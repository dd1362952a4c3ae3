"""How each method is named and drawn: one color a method, in every figure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Method:
    """Name and looks of a method.

    Args:
        label: In legends and tables.
        title: In a sentence.
        color: Of Okabe and Ito's palette or apart from it in lightness, so that the
            color-blind can tell them apart; marker and line differ too.
        marker: Of matplotlib.
        line: Style of its line.
        hollow: Whether the marker is.
    """

    label: str
    title: str
    color: str
    marker: str
    line: str = "-"
    hollow: bool = False


METHODS = {
    "dense": Method("dense", "dense (no thresholds)", "#333a44", "_", ":"),
    "str": Method("STR", "STR (learned soft thresholds)", "#0072B2", "o"),
    "str_filter": Method(
        "STR, by filter", "STR with a threshold per filter", "#0B3C8C", "D", "-", True
    ),
    "str_global": Method(
        "STR, one threshold",
        "STR with one learned threshold for the network",
        "#56B4E9",
        "D",
        "--",
    ),
    "str_macs": Method(
        "STR, MACs", "STR, thresholds follow MACs", "#003D66", "o", ":", True
    ),
    "str_filter_macs": Method(
        "STR, by filter, MACs",
        "STR with a threshold per filter, which follow MACs",
        "#0099A8",
        "v",
        "--",
        True,
    ),
    "str_filter_macs0.5": Method(
        "STR, by filter, MACs 0.5",
        "STR with a threshold per filter, which follow the root of MACs",
        "#007C89",
        ">",
        ":",
        True,
    ),
    "str_filter_macs1": Method(
        "STR, by filter, MACs 1",
        "STR with a threshold per filter, which follow MACs in full",
        "#00505A",
        "p",
        "-.",
        True,
    ),
    "st3": Method("ST-3", "ST-3 (global quantile, rescaled)", "#C2185B", "h"),
    "st3_sigma": Method(
        "ST-3 sigma", "ST-3 with normalized quantiles", "#F06292", "h", "--", True
    ),
    "feather": Method("Feather", "Feather (global quantile, p = 3)", "#2E7D32", "8"),
    "autosparse": Method(
        "AutoSparse", "AutoSparse (annealed gradient)", "#7CB342", "<"
    ),
    "lats": Method("LATS", "LATS (scheduled threshold)", "#6D4C41", "*", "-."),
    "gmp": Method("GMP", "GMP (gradual magnitude pruning)", "#D55E00", "s"),
    "gmp_depthwise_dense": Method(
        "GMP, depthwise dense",
        "GMP with dense first and depthwise kernels",
        "#B8860B",
        "p",
        "--",
    ),
    "tfmot": Method(
        "GMP of tfmot",
        "GMP by tensorflow-model-optimization",
        "#7A3B00",
        "X",
        ":",
    ),
    "tfmot_masked": Method(
        "GMP of tfmot, masked",
        "GMP by tensorflow-model-optimization, no gradient for pruned weights",
        "#A0522D",
        "H",
        ":",
        True,
    ),
    "pquant_autosparse": Method(
        "AutoSparse of PQuantML", "AutoSparse by PQuantML", "#4B2991", "<", ":", True
    ),
    "pquant_dst": Method("DST of PQuantML", "DST by PQuantML", "#8E44AD", ">", ":"),
    "pquant_cs": Method(
        "CS of PQuantML",
        "continuous sparsification by PQuantML",
        "#B39DDB",
        "d",
        ":",
        True,
    ),
    "dnw": Method("DNW", "DNW (largest weights, gradient to all)", "#009E73", "^"),
    "uniform_oneshot": Method(
        "uniform, one shot", "pruned once, every layer alike", "#CC79A7", "v", "-."
    ),
    "erk_rigl_static": Method(
        "ERK, random", "random zeros at the rates of ERK", "#8a8f98", "P", "-."
    ),
    "budget_gmp": Method(
        "GMP at STR's budget",
        "GMP at the rates of a budget",
        "#E69F00",
        "s",
        "--",
        True,
    ),
    "budget_dnw": Method(
        "DNW at STR's budget",
        "DNW at the rates of a budget",
        "#6CC5A4",
        "^",
        "--",
        True,
    ),
}
"""By the name in a configuration, in the order of legends."""

LEARNED = (
    *("str", "str_filter", "str_global", "str_macs", "str_filter_macs"),
    *("str_filter_macs0.5", "str_filter_macs1", "autosparse"),
)
"""Methods whose thresholds are learned; the others' follow from the weights kept."""


def find(name: str) -> Method:
    """The method of a name; an unknown one is drawn in black."""
    return METHODS.get(name, Method(name, name, "#000000", "*"))
