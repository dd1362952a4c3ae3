"""The figure of `experiments.latency`: time against MACs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib import ticker
from matplotlib.figure import Figure

from experiments.latency import LEARNED, WIDTHS
from str_keras.reporting.drawing import BLUE, GRAY, INK, RED, png

if TYPE_CHECKING:
    from experiments.latency_report import Results

_ORANGE, _GREEN = "#E69F00", "#009E73"
# What is compared, its label, color, marker, and line: time solid, instructions dashed.
_SERIES: tuple[tuple[tuple[Any, ...], str, str, str, str], ...] = (
    (("", "wasm", 1, "faster"), "browser, 1 thread", BLUE, "o", "-"),
    (("", "wasm", 2, "faster"), "browser, 2 threads", _GREEN, "s", "-"),
    (("", "arm64", 1, "faster"), "Arm, emulated time", RED, "^", "-"),
    (("", "arm64", 1, "fewer"), "Arm, instructions", RED, "^", ":"),
    (
        ("", "x86_no_avx", 1, "faster"),
        "x86 without AVX, emulated time",
        _ORANGE,
        "D",
        "-",
    ),
    (
        ("", "x86_no_avx", 1, "fewer"),
        "x86 without AVX, instructions",
        _ORANGE,
        "D",
        ":",
    ),
)
_UNIFORM = ("75 %", "85 %", "90 %", "95 %", "99 %")


def draw(results: Results) -> bytes:
    """The PNG: ratios of time against those of MACs; wide and sparse against narrow."""
    return png(lambda figure: _fill(figure, results), height=4.8)


def _fill(figure: Figure, results: Results) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    _ratios(left, results)
    _widths(right, results)


def _ratios(axes: Any, results: Results) -> None:
    nets = [net for net in _UNIFORM if net in results.nets]
    mac_ratios = [results.mac_ratio(net) for net in nets]
    ends = (1.0, 1.15 * max([*mac_ratios, 10.0]))
    axes.plot(ends, ends, color=GRAY, linewidth=1)
    run = [results.mac_ratio(net, "run") for net in nets]
    axes.plot(mac_ratios, run, color=GRAY, linewidth=1, linestyle="--")
    for column, label, color, marker, line in _SERIES:
        points = [
            (x, y)
            for net, x in zip(nets, mac_ratios, strict=True)
            if (y := results.ratio("sparsity", column, net))
        ]
        if points:
            style: Any = {"color": color, "marker": marker, "linestyle": line}
            hollow = {"markerfacecolor": "white"} if line == ":" else {}
            axes.plot(
                *zip(*points, strict=True), markersize=5, label=label, **style, **hollow
            )
    axes.set(xscale="log", yscale="log", xlim=(ends[0] * 2.5, ends[1]))
    _label_lines(axes, mac_ratios, run)
    for net, x in zip(nets, mac_ratios, strict=True):
        axes.annotate(
            net,
            (x, 0.0),
            xycoords=("data", "axes fraction"),
            color=INK,
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    learned = [net for net in LEARNED if net in results.nets]
    points = [
        (results.mac_ratio(net), y)
        for net in learned
        if (y := results.ratio("budgets", _SERIES[0][0], net))
    ]
    if points:
        axes.plot(
            *zip(*points, strict=True),
            linestyle="",
            marker="*",
            markersize=10,
            color=BLUE,
            label="browser, 1 thread, at budgets of STR",
        )
    axes.set(
        xlabel="times fewer MACs with non-zeros",
        ylabel="times faster than dense",
        title="MobileNetV1 at 224 pixels, uniform sparsity",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(10, (1, 2, 3, 5)))
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticker.NullFormatter())
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper left")


def _label_lines(axes: Any, mac_ratios: list[float], run: list[float]) -> None:
    if mac_ratios:
        axes.annotate(
            "MACs that are run",
            (mac_ratios[-1], run[-1]),
            color=INK,
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )


def _widths(axes: Any, results: Results) -> None:
    pairs = [(f"width {a}", f"sparse, MACs of width {a}") for a in WIDTHS]
    found = [
        (results.nets[narrow]["macs"]["macs"] / 1e6, row)
        for narrow, sparse in pairs
        if (row := results.row("widths", "wasm", 1, sparse)).get("seconds")
    ]
    for label, color, marker, key in (
        ("dense, narrower", GRAY, "s", "baseline_seconds"),
        ("width 1, sparse", BLUE, "o", "seconds"),
    ):
        if found:
            axes.plot(
                [x for x, _ in found],
                [1000 * row[key]["median"] for _, row in found],
                color=color,
                marker=marker,
                label=label,
            )
    for (x, row), alpha in zip(found, WIDTHS, strict=False):
        axes.annotate(
            f"width {alpha}",
            (x, 1000 * row["baseline_seconds"]["median"]),
            xytext=(8, -8),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axes.set(
        xlabel="million MACs with non-zeros",
        ylabel="milliseconds, browser, 1 thread",
        title="Dense and narrow, or sparse and wide",
    )
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1.3 * max([x for x, _ in found], default=1.0))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="upper left")
