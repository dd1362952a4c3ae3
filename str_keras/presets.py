"""Published methods as combinations of operator, backward rule and threshold source."""

from __future__ import annotations

import dataclasses
import textwrap

from str_keras.learned import NETWORK
from str_keras.steering import RAMP_SHARES

__all__ = ["PRESETS", "Preset", "describe", "get_preset", "table"]

SOURCES = {
    "learned": "g(s), s trained with the weights, one per layer, filter, weight, or "
    "network",
    "quantile(layer)": "of |w| in each kernel: the same sparsity in all",
    "quantile(global)": "of |w| over all kernels: one threshold",
    "quantile(normalized)": "of |w| over the layer's sum(shape)^-1/2",
    "scheduled": "one threshold on the course of LATS, to the quantile of the target; "
    '"scheduled(0.01)": to 0.01, without a target',
}
"""Where thresholds may come from, by name."""

FORWARD = {
    "soft": "sign(w) relu(|w| - t)",
    "hard": "w where |w| > t, else 0",
    "feather(3)": "sign(w) (|w|^3 - t^3)^(1/3) where |w| > t, else 0",
}
"""The kernel that a layer reads, of raw kernel w and threshold t, by operator."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published method as a combination of the three choices.

    Args:
        help: One line: when to use it.
        source: Where it is published, and whose code was read.
        gradient: What reaches raw kernels (and s) of G, the gradient to the sparse one.
        shapes: Of the thresholds.
        note: What the three choices do not say.
        operator, backward, threshold: The choices; see `sparsify`.
        granularity: Of a learned threshold.
        s_init: Of a learned threshold; None: the default of g.
        rescale: Whether filters are scaled up for what is pruned of them.
        led_g: g of a learned threshold with a target; without one it is "sigmoid".
        min_per_channel: The floor of a target, see `Target`.
        ramp: Where the ramp begins and ends, as shares of the training.
    """

    help: str
    source: str
    gradient: str = ""
    shapes: str = ""
    note: str = ""
    operator: str = "soft"
    backward: str = "masked"
    threshold: str = "learned"
    granularity: str = "layer"
    s_init: float | None = None
    rescale: bool = False
    # Nets with batch normalization may let their weights grow past 1, which no sigmoid
    # prunes: one led to 95 % ended at 91 % so. Far below 1 the two are the same.
    led_g: str = "exp"
    # Where pruned weights get no gradient a layer that dies stays dead. Where they get
    # all of it layers come back by themselves, and better: LATS, led to 95 % (seed 0 of
    # fashion_mobilenet_targets), had 86 % of accuracy without floors and 57 % with
    # them, whose layers stayed there.
    min_per_channel: float = 0.0
    ramp: tuple[float, float] = RAMP_SHARES


_ACTIVE = "to w: G where |w| > t, else 0"
_ALL = "to w: G, to pruned weights too"
_ONE = "one for all kernels, shape ()"
_OFFSET = (
    "With a target the ramp presses on s as decay would, by an offset: what a kernel's "
    "grows by is in proportion to g^-1(1/2) - s; without one the gradient and decay of "
    "s decide the sparsity, as published."
)
_ST3 = (
    "Each filter is scaled by 1.01 / (r + 0.01), r = mean |w| of what is left of it / "
    "mean |w|; the gradient passes as if it were not. The authors freeze the mask when "
    "the training is over and tune the values for 10 more epochs: `stk.freeze_mask`."
)

PRESETS = {
    "str": Preset(
        "a threshold per layer is learned; budgets with few MACs",
        "Kusupati et al. 2020, https://arxiv.org/abs/2002.03231; RAIVNLab/STR",
        f"{_ACTIVE}; to s: -g'(s) sum(sign(w) G) over the same weights",
        "one s a kernel, shape ()",
        _OFFSET,
        min_per_channel=1.0,
    ),
    "str_filter": Preset(
        "a threshold per filter is learned: few filters die; for 95 % and more",
        "STR by filter, Kusupati et al. 2020, https://arxiv.org/abs/2002.03231",
        f"{_ACTIVE}; to s: -g'(s) sum(sign(w) G) over those of its filter",
        "one s a filter, of the kernel's axes, 1 where they do not count filters",
        _OFFSET,
        granularity="filter",
        min_per_channel=1.0,
    ),
    "str_global": Preset(
        "one threshold is learned for the network",
        "STR-GS, Kusupati et al. 2020, https://arxiv.org/abs/2002.03231; not in their "
        "code",
        f"{_ACTIVE}; to s: -g'(s) sum(sign(w) G) over those of all kernels",
        "one s for all kernels, shape ()",
        _OFFSET,
        granularity=NETWORK,
        min_per_channel=1.0,
    ),
    "st3": Preset(
        "one global quantile, gradient to all weights; accuracy first",
        "ST-3, Vanderschueren and De Vleeschouwer 2023, "
        "https://arxiv.org/abs/2212.01076; vanderschuea/stthree",
        _ALL,
        _ONE,
        _ST3,
        backward="straight_through",
        threshold="quantile(global)",
        rescale=True,
        ramp=(0.05, 0.5),
    ),
    "st3_sigma": Preset(
        "st3 with quantiles over the layer's scale: fewer MACs",
        "ST-3 sigma, Vanderschueren and De Vleeschouwer 2023, "
        "https://arxiv.org/abs/2212.01076; vanderschuea/stthree",
        _ALL,
        "one a kernel, shape (): a common level times sum(kernel shape)^-1/2",
        _ST3,
        backward="straight_through",
        threshold="quantile(normalized)",
        rescale=True,
        ramp=(0.05, 0.5),
    ),
    "feather": Preset(
        "survivors are shrunk less the larger they are; gradient to all, half of it to "
        "pruned weights above 95 %",
        "Glentis Georgoulakis et al. 2023, https://arxiv.org/abs/2310.02448; "
        "athglentis/feather",
        "to w: G where |w| > t, else theta G, theta = 0.5 if target_sparsity > 0.95, "
        "else 1; not the operator's own slope",
        _ONE,
        "Of a target in MACs or bytes theta is 1 unless `backward` says otherwise.",
        operator="feather(3)",
        backward="scaled(1)",
        threshold="quantile(global)",
        ramp=(0.0, 0.5),
        min_per_channel=1.0,
    ),
    "autosparse": Preset(
        "str, pruned weights get a share of the gradient that falls to 0",
        "Kundu et al. 2023, https://arxiv.org/abs/2304.06941; formulas as PQuantML "
        "0.1.0 has them, the authors' code was not to be had",
        "to w: G where |w| > t, else alpha G; to s: -g'(s) sum(sign(w) G), pruned "
        "weights with alpha G here too; alpha = 0.5 max((1 + cos(pi x)) / 2, 1 / (1 + "
        "exp(12 x - 6))) at a share x of the training, 0 from 0.9 on",
        "one s a kernel, shape (); as PQuantML: granularity='filter'",
        f"alpha falls by steps, PQuantML's by epochs. {_OFFSET}",
        backward="annealed(0.5)",
        s_init=-5.0,
        # Pruned weights feed s too: by exp, thresholds and weights drive each other up.
        led_g="sigmoid",
        min_per_channel=1.0,
    ),
    "lats": Preset(
        "one threshold that is scheduled itself, gradient to all",
        "S-LATS, Chen et al. 2023, https://arxiv.org/abs/2302.13019; Yanqi-Chen/LATS",
        _ALL,
        _ONE,
        "t = D (sin(pi x) / pi + x) at a share x of the training. The authors name D: "
        "threshold='scheduled(D)'; with a target it is the present quantile.",
        backward="straight_through",
        threshold="scheduled",
    ),
    "gmp": Preset(
        "the largest weights of each layer, on a cubic ramp; the same sparsity in all",
        "Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878; ramp of RAIVNLab/STR",
        _ACTIVE,
        "one a kernel, shape ()",
        operator="hard",
        threshold="quantile(layer)",
        ramp=(0.2, 0.8),
    ),
    "dnw": Preset(
        "the largest weights of each layer from the first step on, gradient to all",
        "Wortsman et al. 2019, https://arxiv.org/abs/1906.00586; RAIVNLab/STR",
        _ALL,
        "one a kernel, shape ()",
        operator="hard",
        backward="straight_through",
        threshold="quantile(layer)",
        ramp=(0.0, 0.0),
    ),
}
"""Published methods by name: `sparsify(model, preset="st3", target_sparsity=0.9)`."""

FEATHER_HALF = 0.95
"""Sparsity above which Feather gives pruned weights half of the gradient."""


def describe(preset: str) -> str:
    """What a preset does, with the shapes, whose it is, and when to use it.

    Args:
        preset: Of `PRESETS`.

    Returns:
        Lines of at most 88 characters.

    Raises:
        ValueError: if there is no such preset.
    """
    chosen = get_preset(preset)
    begin, end = (f"{100 * share:g} %" for share in chosen.ramp)
    floor = (
        f"with a target each kernel keeps {chosen.min_per_channel:g} weight a channel"
    )
    ramp = f"the target is led to from {begin} to {end} of the training, by a cubic"
    if chosen.ramp == (0.0, 0.0):
        ramp = "none: the target is in force from the first step on"
    if chosen.threshold == "scheduled":
        ramp = "none: t has a course of its own, to the last step"
    rows = {
        "use": chosen.help,
        "kernel read": f"{FORWARD[chosen.operator]}; shape and dtype of w",
        "gradient": chosen.gradient,
        "threshold t": _told_source(chosen),
        "shape of t": chosen.shapes,
        "ramp": ramp,
        "floor": floor if chosen.min_per_channel else "",
        "note": chosen.note,
        "source": chosen.source,
    }
    lines = [preset]
    for title, text in rows.items():
        if text:
            start = f"  {title}: "
            lines.append(
                textwrap.fill(text, 88, initial_indent=start, subsequent_indent="    ")
            )
    return "\n".join(lines)


def _told_source(preset: Preset) -> str:
    if preset.threshold == "learned":
        start = "the default of g" if preset.s_init is None else f"{preset.s_init:g}"
        return f"learned: g(s), s trained with the weights from {start} on"
    return f"{preset.threshold}: {SOURCES[preset.threshold].split(';')[0]}"


def get_preset(name: str) -> Preset:
    """Returns the preset of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in PRESETS:
        raise ValueError(
            f"Unknown preset: choose one of {', '.join(PRESETS)}. "
            f"Received: preset={name!r}"
        )
    return PRESETS[name]


def default_g(preset: str, led: bool) -> str:
    """The g of a preset, where none is named.

    Args:
        preset: Of `PRESETS`.
        led: Whether there is a target.
    """
    return get_preset(preset).led_g if led else "sigmoid"


def table() -> str:
    """All presets as a Markdown table: the one of README."""
    titles = ("preset", "operator", "backward", "threshold", "what for", "source")
    rows = [titles, ("---",) * len(titles)]
    for name, preset in PRESETS.items():
        who, _, address = preset.source.split(";")[0].rpartition(", ")
        choices = (name, preset.operator, preset.backward, preset.threshold)
        cells = [f"`{choice}`" for choice in choices]
        rows.append((*cells, preset.help, f"[{who}]({address})"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
