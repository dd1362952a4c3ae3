"""Reports: figures, page and text say what the files of a run say; errors are clear."""

import csv
import dataclasses
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from report_runs import make_run, mobilenet_kernels, resnet_kernels

from str_keras import reporting
from str_keras.reporting import facts, methods, runs, tradeoff
from str_keras.run_directory import METRICS

FOUR = ["accuracy.png", "budget.png", "sparsity.png", "threshold.png"]
FIVE = sorted([*FOUR, "tradeoff.png"])
SIX = sorted([*FIVE, "budgets.png"])
COUNTS = ("params", "nonzeros", "macs", "sparse_macs", "bytes", "sparse_bytes")


class Page(html.parser.HTMLParser):
    """What a page holds; an error for a tag that is not closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.images, self.tables = {}, []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [
            attrs[name] for name in ("src", "href", "srcset") if name in attrs
        ]
        if tag == "img":
            self.images[attrs["src"]] = attrs["alt"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def check_figure(path):
    """The file is a PNG with a drawing on it that touches no edge."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    ink = (pixels < 250).any(axis=-1)
    assert 0.01 < ink.mean() < 0.9
    assert not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any())
    return pixels


def figures(page):
    return sorted(path.name for path in page.parent.glob("*.png"))


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def integers(cells):
    return [int(cell.replace(",", "")) for cell in cells]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A sparse run and its dense twin."""
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "sparse"), make_run(folder / "dense", sparse=False)


@pytest.fixture(scope="module")
def page(pair):
    """The page of the sparse run beside its twin."""
    return reporting.write_report(pair[0], [pair[1]])


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run", mobilenet_kernels()[:3], epochs=2)


def test_files(pair, page):
    assert page == pair[0] / "report" / "index.html"
    assert figures(page) == FIVE
    assert len(list(page.parent.iterdir())) == 6  # nothing is left of writing aside
    widths = {check_figure(page.parent / name).shape[1] for name in FIVE}
    assert len(widths) == 1


def test_page_is_self_contained(page):
    found = Page(page)
    assert all(link.startswith("data:") for link in found.links)
    assert not re.search(r"url\(|@import|https?:", page.read_text(encoding="utf-8"))
    assert "script" not in found.tags
    assert len(found.images) == 5
    assert all(len(alt) > 40 for alt in found.images.values())


def test_page_has_the_numbers_of_the_run(pair, page):
    found = Page(page)
    _, layers = found.tables
    assert layers[0][:5] == ["layer", "kind", "shape", "params", "non-zeros"]
    budget = read_table(pair[0] / "budget.csv")
    for row, cells in zip(budget, layers[1:29], strict=True):
        assert cells[0] == row["path"].removesuffix("/kernel")
        assert integers(cells[3:5] + cells[7:]) == [int(row[name]) for name in COUNTS]
        assert cells[5] == f"{100 * float(row['sparsity']):.2f} %"
        assert float(cells[6]) == float(row["threshold"])
    totals = json.loads((pair[0] / "summary.json").read_text())
    for cells, part in zip(layers[29:], ("prunable", "kernels", "total"), strict=True):
        numbers = [totals[part][name] for name in COUNTS]
        assert integers(cells[3:5] + cells[7:]) == numbers
    for text in ("threshold_decay", "0.03", "re:^conv1$", "3.15.1", "0123456789abcdef"):
        assert text in found.text
    assert "python -m str_keras.train --run_dir=sparse" in found.text


def test_comparison(pair, page):
    table = Page(page).tables[0]
    totals = json.loads((pair[0] / "summary.json").read_text())["total"]
    assert [row[0] for row in table] == ["run", "sparse", "dense"]
    assert integers(table[1][5:]) == [totals[name] for name in COUNTS]
    assert table[2][5] == table[2][6] == table[1][5]
    for path, row in zip(pair, table[1:], strict=True):
        last = read_table(path / "metrics.csv")[-1]
        assert row[2] == f"{100 * float(last['val_accuracy']):.2f} %"
        assert row[4] == f"{100 * float(last['sparsity']):.2f} %"


def test_text(pair):
    text = reporting.as_text(reporting.load_runs(pair[0], [pair[1]]))
    totals = json.loads((pair[0] / "summary.json").read_text())["total"]
    assert f"{totals['params']:,}, non-zero {totals['nonzeros']:,}" in text
    assert facts.SMALL_IMAGE_NOTE in text
    for word in ("block13_pointwise", "all weights", "dense", "12 of 12"):
        assert word in text


def test_dead_layers_are_named(tmp_path):
    kernels = mobilenet_kernels()[:4]
    run = make_run(
        tmp_path / "run", kernels, epochs=2, dead=["block1_pointwise/kernel"]
    )
    text = reporting.as_text(reporting.load_runs(run))
    assert re.search(r"dead layers +1 \(first: block1_pointwise\)", text)
    check_figure(reporting.write_report(run).parent / "budget.png")


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / folder / "run" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        make_run(path, mobilenet_kernels()[:2], epochs=1)
    names = [run.name for run in reporting.load_runs(paths[0], paths[1:])]
    assert names == [str(path) for path in paths]


def test_dense_run(pair, tmp_path):
    page = reporting.write_report(pair[1], output=tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    assert figures(page) == ["accuracy.png", "budget.png"]
    found = Page(page)
    assert len(found.images) == 2
    assert len(found.tables[1]) == 1 + 28 + 3
    assert "threshold" not in found.tables[1][0]


def test_dense_run_without_a_table_of_layers(tmp_path):
    run = make_run(tmp_path / "run", mobilenet_kernels()[:2], sparse=False)
    (run / "layers.csv").unlink()
    assert figures(reporting.write_report(run)) == ["accuracy.png", "budget.png"]


def test_one_epoch(tmp_path):
    run = make_run(tmp_path / "run", epochs=1)
    page = reporting.write_report(run)
    assert figures(page) == FOUR
    for name in FOUR:
        check_figure(page.parent / name)
    accuracy = float(read_table(run / "metrics.csv")[0]["val_accuracy"])
    assert f"{100 * accuracy:.2f} % (epoch 1)" in Page(page).text


def test_many_layers(tmp_path):
    config = {"architecture": "resnet50", "stem": "imagenet"}
    run = make_run(tmp_path / "run", resnet_kernels(), 3, config=config)
    page = reporting.write_report(run)
    height = check_figure(page.parent / "budget.png").shape[0]
    assert height / 54 > 25  # pixels a layer
    assert facts.SMALL_IMAGE_NOTE not in Page(page).text


@pytest.mark.parametrize("with_columns", [True, False])
def test_without_validation(run_dir, with_columns):
    path = run_dir / "metrics.csv"
    rows = read_table(path)
    columns = [c for c in METRICS if with_columns or not c.startswith("val_")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "val_loss": "", "val_accuracy": ""} for row in rows)
    page = reporting.write_report(run_dir)
    check_figure(page.parent / "accuracy.png")
    text = Page(page).text
    assert "never evaluated" in text
    assert f"{100 * float(rows[-1]['accuracy']):.2f} %" in text


def test_running_training_has_no_table_yet(run_dir):
    (run_dir / "budget.csv").unlink()
    (run_dir / "summary.json").unlink()
    page = reporting.write_report(run_dir)
    assert figures(page) == ["accuracy.png", "sparsity.png", "threshold.png"]
    assert "when the training ends" in Page(page).text
    assert "when the training ends" in reporting.as_text(reporting.load_runs(run_dir))


@pytest.mark.parametrize("threshold", ["0.0", "0.25", "inf", "1e-45"])
def test_thresholds_that_are_all_the_same(run_dir, threshold):
    path = run_dir / "layers.csv"
    header, *lines = path.read_text().splitlines()
    lines = [f"{line.rsplit(',', 1)[0]},{threshold}" for line in lines]
    path.write_text("\n".join([header, *lines, ""]))
    check_figure(reporting.write_report(run_dir).parent / "threshold.png")


def legend_rows(pixels):
    """Lines of a legend, by the handles in its first column."""
    ink = (pixels[:, 12:50] < 200).any(axis=-1).sum(axis=1) > 30
    return int((np.diff(ink[:200].astype(int)) == 1).sum())


def test_hostile_names_are_shown_not_obeyed(tmp_path):
    evil = """<script>alert("x")</script>&'$\\frac{_$"""
    kernels = [(f"{evil}{i}/kernel", "Dense", (8, 4), 1) for i in range(3)]
    kernels += [("_" + "long" * 60, "Dense", (8, 4), 1), ("模型", "Dense", (4, 4), 1)]
    config = {"dataset": evil, evil: evil}
    run = make_run(tmp_path / "_<b>&run", kernels, 2, config=config)
    twin = make_run(tmp_path / ("_$x<i>" + "twin" * 20), kernels, 2, sparse=False)
    page = reporting.write_report(run, [twin])
    found = Page(page)
    assert not {"script", "b", "i"} & set(found.tags)
    assert found.tables[1][1][0] == evil + "0"
    assert found.text.count(evil) >= 5
    for name in FIVE:
        check_figure(page.parent / name)
    # A label that starts with "_" is one that matplotlib would leave out.
    assert legend_rows(check_figure(page.parent / "accuracy.png")) == 2


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("str_global", ("one learned threshold", "takes off")),
        ("gmp", ("GMP (gradual magnitude", "smallest weight that each layer keeps")),
        ("my_method", ("my_method", "smallest weight that each layer keeps")),
    ],
)
def test_every_method_is_named_and_has_its_figures(tmp_path, method, words):
    """Thresholds of a pruned net are the smallest weights that it keeps."""
    config = {"method": method}
    run = make_run(tmp_path / "run", mobilenet_kernels()[:3], 2, config=config)
    page = reporting.write_report(run)
    assert figures(page) == FOUR
    text = Page(page).text
    for word in words:
        assert word in text
    assert words[0] in reporting.as_text(reporting.load_runs(run))


def blobs(pixels, color):
    """Numbers of pixels of a color in the left and the right half of a figure."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    same = (np.abs(pixels - rgb) < 8).all(axis=-1)
    middle = same.shape[1] // 2
    below = same.shape[0] // 4  # of the legend
    return same[below:, :middle].sum(), same[below:, middle:].sum()


def test_runs_are_compared_by_sparsity_and_macs(tmp_path):
    kernels = mobilenet_kernels()
    paths = [make_run(tmp_path / "str", kernels)]
    paths.append(make_run(tmp_path / "dense", kernels, sparse=False))
    for name, first in (("gmp", -0.02), ("dnw", -0.01)):
        config = {"method": name}
        run = make_run(tmp_path / name, kernels, config=config, first=first)
        paths.append(run)
    page = reporting.write_report(paths[0], paths[1:])
    pixels = check_figure(page.parent / "tradeoff.png")
    for method in ("str", "dense", "gmp", "dnw"):
        left, right = blobs(pixels, methods.METHODS[method].color)
        assert left > 50 and right > 50, method
    (alt,) = [text for text in Page(page).images.values() if "scatter" in text]
    totals = json.loads((paths[2] / "summary.json").read_text())["kernels"]
    last = read_table(paths[2] / "metrics.csv")[-1]
    assert (
        f"gmp: {100 * float(last['val_accuracy']):.2f} % at a sparsity of "
        f"{100 * totals['sparsity']:.2f} % and {totals['sparse_macs']:,} MACs" in alt
    )


def test_budgets_stand_side_by_side(tmp_path):
    """Those of one network alone; a layer without weights is seen too."""
    kernels = mobilenet_kernels()[:4]
    run = make_run(tmp_path / "str", kernels, 2)
    twin = make_run(
        tmp_path / "twin", kernels, 2, config={"method": "dnw"}, dead=[kernels[1][0]]
    )
    other = make_run(tmp_path / "other", kernels[1:], 2, config={"method": "gmp"})
    dense = make_run(tmp_path / "dense", kernels, 2, sparse=False)
    page = reporting.write_report(run, [twin, other, dense])
    pixels = check_figure(page.parent / "budgets.png")
    for method, shown in (("str", True), ("dnw", True), ("gmp", False)):
        left, right = blobs(pixels, methods.METHODS[method].color)
        assert (left > 50 and right > 50) == shown, method
    (alt,) = [
        text for text in Page(page).images.values() if "weights kept: str" in text
    ]
    rows = read_table(run / "budget.csv")
    kept = [int(row["nonzeros"]) / int(row["params"]) for row in rows]
    assert f"str from {100 * min(kept):.2f} %" in alt
    assert "twin from 0.00 % (block1_depthwise)" in alt
    assert "other" not in alt and "dense" not in alt
    page = reporting.write_report(run, [other], tmp_path / "without")
    assert figures(page) == FIVE


def test_unfinished_and_dead_runs_are_not_compared(tmp_path):
    kernels = mobilenet_kernels()[:3]
    run = make_run(tmp_path / "str", kernels, 2)
    unfinished = make_run(tmp_path / "unfinished", kernels, 2)
    (unfinished / "budget.csv").unlink()
    (unfinished / "summary.json").unlink()
    dead = make_run(tmp_path / "dead", kernels, 2, dead=[k[0] for k in kernels])
    assert figures(reporting.write_report(run, [unfinished, dead])) == FOUR
    twin = make_run(tmp_path / "twin", kernels, 2, config={"method": "gmp"})
    page = reporting.write_report(run, [unfinished, dead, twin])
    assert figures(page) == SIX
    (alt,) = [text for text in Page(page).images.values() if "scatter" in text]
    assert "twin" in alt and "dead" not in alt and "unfinished" not in alt


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (0.3, 0.31), (0.8, 0.99), (0.998, 0.9999)]
)
def test_the_axis_of_sparsity_has_labels(low, high):
    axes = Figure().add_subplot()
    tradeoff.sparsity_axis(axes, [1 - low, 1 - high])
    shares = [float(t.get_text().rstrip(" %")) for t in axes.get_xticklabels()]
    right, left = sorted(axes.get_xlim())
    assert len(shares) >= 1 + (low != high)
    assert all(right <= 1 - share / 100 <= left for share in shares)
    assert shares == sorted(shares)
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # sparser to the right


@pytest.mark.parametrize(
    ("config", "size", "expected"),
    [
        ({"stem": "small"}, 64, True),
        ({"stem": "imagenet"}, 16, False),
        ({"stem": "auto", "image_size": 64}, 64, True),
        ({"stem": "auto", "image_size": 128}, 64, False),
        ({"stem": "auto", "image_size": 0}, 32, True),
        ({"stem": "auto", "image_size": 0}, 112, False),
        ({"stem": None, "image_size": None}, 32, True),
    ],
)
def test_small_image_note(tmp_path, config, size, expected):
    path = make_run(tmp_path / "run", mobilenet_kernels(size)[:3], 1, config=config)
    text = reporting.as_text([runs.read_run(path)])
    assert (facts.SMALL_IMAGE_NOTE in text) == expected


@pytest.mark.parametrize(
    ("accuracies", "sparsities", "epoch"),
    [
        ([0.9, 0.8, 0.7, 0.72], [0, 0.5, 0.95, 0.952], 4),
        ([0.9, 0.8, 0.72, 0.7], [0, 0.5, 0.95, 0.952], 3),
        ([0.7, 0.9, 0.8], [0, 0, 0], 2),
        ([0.7, None, None], [0, 0, 0], 1),
        ([None], [0.5], None),
    ],
)
def test_best_epoch_is_that_of_the_training(pair, accuracies, sparsities, epoch):
    metrics = [
        {"epoch": i, "val_accuracy": a, "sparsity": s}
        for i, (a, s) in enumerate(zip(accuracies, sparsities, strict=True), 1)
    ]
    best = dataclasses.replace(runs.read_run(pair[0]), metrics=metrics).best
    assert (best and best["epoch"]) == epoch


def edit(name, old, new):
    """A change of a file of the run: `new` in the place of the pattern `old`."""

    def apply(run_dir):
        path = run_dir / name
        text, count = re.subn(old, new, path.read_text(), count=1, flags=re.DOTALL)
        assert count
        path.write_text(text)

    return apply


def remove(name):
    return lambda run_dir: (run_dir / name).unlink()


BAD = {
    "no config": (remove("config.json"), OSError, "config.json is missing"),
    "no metrics": (remove("metrics.csv"), OSError, "no epoch of the run has finished"),
    "empty file": (edit("metrics.csv", ".+", ""), ValueError, "is empty"),
    "no epoch": (
        edit("metrics.csv", r"\n.*", r"\n"),
        ValueError,
        "no epoch of the run",
    ),
    "cut": (edit("metrics.csv", r".{9}\Z", ""), ValueError, "metrics.csv .*cut off"),
    "cells": (
        edit("metrics.csv", r",[^\n,]*\n\Z", r"\n"),
        ValueError,
        "line 3: .* 10 ",
    ),
    "word": (edit("metrics.csv", r"\n1,32,0.1", r"\n1,32,fast"), ValueError, "'fast'"),
    "column": (edit("metrics.csv", "sparsity", "x"), ValueError, "no column sparsity"),
    "epochs": (edit("metrics.csv", r"\n2,", r"\n1,"), ValueError, "epoch 1 follows"),
    "half": (edit("metrics.csv", r"\n2,", r"\n2.5,"), ValueError, "epoch='2.5'"),
    "layers": (edit("layers.csv", r".\Z", ""), ValueError, "layers.csv .*cut off"),
    "percent": (edit("layers.csv", r"nel,[^,]*", "nel,9.5"), ValueError, "in .0, 1"),
    "below": (edit("layers.csv", r"0.0\n", "-1\n"), ValueError, "threshold=-1"),
    "json": (edit("config.json", r".{40}\Z", ""), ValueError, "config.json .*JSON"),
    "list": (edit("config.json", r".+", "[]"), ValueError, "config.json is damaged"),
    "no dict": (edit("config.json", '"config"', '"x"'), ValueError, '"config" is miss'),
    "no budget": (remove("budget.csv"), OSError, "budget.csv is missing"),
    "no totals": (remove("summary.json"), OSError, "summary.json is missing"),
    "lost line": (edit("budget.csv", r"\nconv1[^\n]*", ""), ValueError, "add up to"),
    "count": (edit("budget.csv", "Conv2D,3x3", "Conv2D,5x3"), ValueError, "in 5x3x1x8"),
    "quote": (
        edit("budget.csv", r"\nconv1", r'\n"conv1'),
        ValueError,
        "budget.csv .*line",
    ),
    "totals": (
        edit("summary.json", '"total"', '"x"'),
        ValueError,
        '"total" is missing',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_run(run_dir, case):
    damage, error, message = BAD[case]
    damage(run_dir)
    with pytest.raises(error, match=message) as caught:
        reporting.write_report(run_dir)
    assert str(run_dir) in str(caught.value)
    assert not (run_dir / "report").exists()


def test_not_text(run_dir):
    (run_dir / "metrics.csv").write_bytes(b"epoch\xff\n")
    with pytest.raises(ValueError, match=r"metrics\.csv .*UTF-8"):
        reporting.write_report(run_dir)


def test_no_directory(run_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run directory"):
        reporting.write_report(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="no such run directory"):
        reporting.write_report(run_dir / "config.json")
    with pytest.raises(FileNotFoundError, match="none"):
        reporting.write_report(run_dir, compare=[tmp_path / "none"])
    with pytest.raises(FileExistsError, match=r"config\.json"):
        reporting.write_report(run_dir, output=run_dir / "config.json")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_plot_extra(run_dir, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"{package}: run pip install 'str_k"
    ):
        reporting.write_report(run_dir)
    assert "conv1" in reporting.as_text(reporting.load_runs(run_dir))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "str_keras.report", *map(str, arguments)],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_command(pair, tmp_path):
    output = tmp_path / "out"
    done = command(f"--run_dir={pair[0]}", f"--compare={pair[1]}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "block13_pointwise" in done.stdout
    assert str(output / "index.html") in done.stdout
    assert figures(output / "index.html") == FIVE


@pytest.mark.slow
def test_command_with_a_bad_run(tmp_path):
    done = command(f"--run_dir={tmp_path}")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "config.json is missing" in errors[0]
    assert "Traceback" not in done.stderr
