"""What all figures of a report share: size, colors, type, and PNG as their format."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Callable
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

WIDTH, HEIGHT, DPI = 9.6, 4.2, 150  # inches, dots per inch

# Okabe and Ito's palette, which the color-blind can tell apart.
BLUE, RED, GRAY = "#0072B2", "#D55E00", "#8a8f98"
PALE, INK, RULE = "#cfdbe6", "#333a44", "#e4e7eb"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One figure.

    Args:
        name: Of its file, without ".png".
        png: The file.
        title: A heading.
        caption: What is to be seen, in a sentence or two.
        alt: The same for those who cannot see it, with its main numbers.
    """

    name: str
    png: bytes
    title: str
    caption: str
    alt: str


def png(fill: Callable[[Figure], None], height: float = HEIGHT) -> bytes:
    """The PNG of a figure that `fill` draws; no pyplot, so no state is shared."""
    data = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in letters that the font lacks gets boxes; the page has it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        FigureCanvasAgg(figure)
        fill(figure)
        for text in figure.findobj(Text):
            cast(Text, text).set_parse_math(False)  # a "$" in a name is a "$"
        figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def short(name: str, length: int = 34) -> str:
    """A name of at most so many characters, with its end: the front says less."""
    name = " ".join(name.split())
    return name if len(name) <= length else "…" + name[1 - length :]


def percent_tick(share: float, _: int) -> str:
    """Label of a tick on an axis of shares."""
    return f"{100 * share:.6g} %"
