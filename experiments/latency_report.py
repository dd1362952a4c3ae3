"""Tables and figure of `experiments.latency`, from latency.json alone."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from experiments import markdown
from experiments.latency import FORMS, WIDTHS

# Of the columns: heading, runtime, threads, and what is compared.
_RATIOS = (
    ("browser", "wasm", 1, "faster"),
    ("2 threads", "wasm", 2, "faster"),
    ("Arm, time", "arm64", 1, "faster"),
    ("Arm, instructions", "arm64", 1, "fewer"),
    ("x86, time", "x86_no_avx", 1, "faster"),
    ("x86, instructions", "x86_no_avx", 1, "fewer"),
)
_KERNELS = {
    "first": ("HWC2CHW", "IGEMM"),
    "depthwise": ("DWConv",),
    "1x1": ("SPMM", "GEMM"),
}
_CLASSES = {
    "first": "first convolution",
    "depthwise": "depthwise convolutions",
    "1x1": "1x1 convolutions, classifier",
    "other": "layout, mean, other",
}


class Results:
    """What is recorded, by group, runtime, number of threads and net.

    Args:
        record: The content of latency.json.
    """

    def __init__(self, record: dict[str, Any]):
        self.nets: dict[str, Any] = record["nets"]
        self._rows = {
            (cell["group"], cell["runtime"], cell["threads"], row["net"]): row
            for cell in record["cells"]
            for row in cell["rows"]
        }

    def row(self, group: str, runtime: str, threads: int, net: str) -> dict[str, Any]:
        """What was measured; empty if nothing was."""
        return self._rows.get((group, runtime, threads, net), {})

    def names(self, group: str) -> list[str]:
        """Nets of a group in the order of measurement."""
        found = [net for recorded, _, _, net in self._rows if recorded == group]
        return list(dict.fromkeys(found))

    def has(self, group: str) -> bool:
        """Whether anything of it is recorded."""
        return bool(self.names(group))

    def ratio(self, group: str, column: tuple[Any, ...], net: str) -> float | None:
        """How many times faster, or fewer instructions, than its baseline."""
        _, runtime, threads, what = column
        found = self.row(group, runtime, threads, net).get(what)
        return found["median"] if isinstance(found, dict) else found

    def mac_ratio(self, net: str, kind: str = "nonzero") -> float:
        """MACs over those with non-zeros, or over those that are run."""
        macs = self.nets[net]["macs"]
        return macs["macs"] / macs[kind]


def publish(path: pathlib.Path, readme: str) -> None:
    """Draws latency.png beside latency.json, prints the tables, fills a file.

    Args:
        path: Of latency.json.
        readme: A file with the tables' markers; empty: none is filled.

    Raises:
        FileNotFoundError: if nothing is recorded.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Nothing is recorded yet. Received: {path}")
    results = Results(json.loads(path.read_text(encoding="utf-8")))
    for name, table in tables(results).items():
        print(f"\n{name}\n{table}")
        if readme:
            markdown.fill(readme, name, table)
    from experiments import latency_figure

    path.with_suffix(".png").write_bytes(latency_figure.draw(results))


def tables(results: Results) -> dict[str, str]:
    """Tables by the name of their markers, of what is recorded."""
    made: dict[str, tuple[str, Callable[[Results], str]]] = {
        "latency": ("sparsity", _ratios),
        "latency_widths": ("widths", _widths),
        "latency_operators": ("operators", _operators),
        "latency_forms": ("forms", _forms),
    }
    return {name: f(results) for name, (group, f) in made.items() if results.has(group)}


def _ratios(results: Results) -> str:
    columns = ["", "zeros", "MACs", "MACs run", "dense, ms", "sparse, ms"]
    columns += [heading for heading, *_ in _RATIOS]
    rows = []
    for group in ("sparsity", "budgets"):
        for net in results.names(group):
            if net == "dense" or (group == "budgets" and net == "90 %"):
                continue
            row = results.row(group, "wasm", 1, net)
            cells = [
                net,
                f"{100 * results.nets[net]['sparsity']:.1f} %",
                f"{results.mac_ratio(net):.1f}",
                f"{results.mac_ratio(net, 'run'):.1f}",
                _milliseconds({"seconds": row.get("baseline_seconds")}),
                _milliseconds(row),
            ]
            cells += [_times(results, group, column, net) for column in _RATIOS]
            rows.append(cells)
    return markdown.table(columns, rows)


def _times(results: Results, group: str, column: tuple[Any, ...], net: str) -> str:
    """The ratio, with its quartiles where it is one of the browser."""
    _, runtime, threads, what = column
    row = results.row(group, runtime, threads, net)
    if row.get("trouble"):
        return "fails"
    found = row.get(what)
    if found is None:
        return ""
    if isinstance(found, float):
        return f"{found:.2f}"
    if runtime != "wasm":
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _milliseconds(row: dict[str, Any]) -> str:
    seconds = row.get("seconds")
    return f"{1000 * seconds['median']:.1f}" if seconds else ""


def _widths(results: Results) -> str:
    """Sparse wide nets against dense narrow ones of as many MACs."""
    columns = ["width", "MACs", "zeros of width 1", "bytes, narrow", "sparse"]
    shown = _measured(results, "widths")
    columns += ["narrow, ms", "sparse, ms", *(heading for heading, *_ in shown)]
    rows = []
    for alpha in WIDTHS:
        narrow, sparse = f"width {alpha}", f"sparse, MACs of width {alpha}"
        if sparse not in results.nets:
            continue
        row = results.row("widths", "wasm", 1, sparse)
        cells = [
            f"{alpha}",
            f"{results.nets[narrow]['macs']['macs'] / 1e6:.0f}M",
            f"{100 * results.nets[sparse]['sparsity']:.1f} %",
            f"{results.nets[narrow]['bytes']:,}",
            f"{results.nets[sparse]['bytes']:,}",
            _milliseconds({"seconds": row.get("baseline_seconds")}),
            _milliseconds(row),
        ]
        rows.append(cells + [_times(results, "widths", c, sparse) for c in shown])
    return markdown.table(columns, rows)


def _measured(results: Results, group: str) -> list[tuple[Any, ...]]:
    """The ratios of which there is any of the group."""
    names = results.names(group)
    return [c for c in _RATIOS if any(results.ratio(group, c, n) for n in names)]


def kernel_class(name: str) -> str:
    """Which part of the net a kernel of LiteRT's profile computes: of `_CLASSES`."""
    for part, marks in _KERNELS.items():
        if any(mark in name for mark in marks):
            return part
    return "other"


def by_class(operators: dict[str, float]) -> dict[str, float]:
    """Microseconds of a profile, added up by `kernel_class`."""
    spent = dict.fromkeys(_CLASSES, 0.0)
    for name, microseconds in operators.items():
        spent[kernel_class(name)] += microseconds
    return spent


def _operators(results: Results) -> str:
    columns = ["", "MACs", "MACs run at 90 %"]
    runtimes = (("Arm", "arm64"), ("x86", "x86_no_avx"))
    spent: dict[tuple[str, str], dict[str, float]] = {}
    for heading, runtime in runtimes:
        columns += [f"{heading}: dense", "90 %", "times less"]
        for net in ("dense", "90 %"):
            row = results.row("operators", runtime, 1, net)
            spent[runtime, net] = by_class(row.get("operators") or {})
    macs = results.nets["90 %"]["macs"]
    rows = []
    for part, label in (*_CLASSES.items(), ("all", "all")):
        kinds = {"1x1": ("1x1", "classifier"), "other": ()}.get(part, (part,))
        if part == "all":
            whole, run = macs["macs"], macs["run"]
        else:
            whole = sum(macs[kind] for kind in kinds)
            run = sum(macs[f"{kind}_run"] for kind in kinds)
        cells = [label, _millions(whole), _millions(run)]
        for _, runtime in runtimes:
            dense, sparse = (spent[runtime, net] for net in ("dense", "90 %"))
            cells += _compare(dense, sparse, part)
        rows.append(cells)
    return markdown.table(columns, rows)


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number else ""


def _compare(dense: dict[str, float], sparse: dict[str, float], part: str) -> list[str]:
    """Time and share of a part in both files, and how many times less it got."""
    cells, found = [], []
    for spent in (dense, sparse):
        whole = sum(spent.values())
        mine = whole if part == "all" else spent[part]
        found.append(mine)
        share = f" ({mine / whole:.0%})" if whole and part != "all" else ""
        cells.append(f"{mine / 1000:,.0f} ms{share}" if whole else "")
    worth = found[1] > 0 and part != "other"
    return [*cells, f"{found[0] / found[1]:.1f}" if worth else ""]


def _forms(results: Results) -> str:
    columns = ["90 % of zeros, and", "MACs run", "dense, ms", "sparse, ms"]
    shown = _measured(results, "forms")
    columns += [heading for heading, *_ in shown]
    rows = []
    for net in (form.name for form in FORMS):
        row = results.row("forms", "wasm", 1, net)
        if net not in results.nets:
            continue
        dense = {"seconds": row.get("baseline_seconds")}
        cells = [
            "nothing else" if net == "90 %" else net,
            f"{results.mac_ratio(net, 'run'):.1f}",
            _milliseconds(dense),
            _milliseconds(row),
        ]
        rows.append(cells + [_times(results, "forms", c, net) for c in shown])
    return markdown.table(columns, rows)
