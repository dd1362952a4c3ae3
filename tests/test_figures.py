"""Figures and tables of the experiments say what the rows of a suite say."""

import csv
import io
import math
import statistics

import numpy as np
import programs
import pytest
from PIL import Image

from experiments import (
    analysis,
    claims,
    figures,
    markdown,
    pressure_figure,
    records,
    runner,
    tradeoff_figures,
)
from str_keras.reporting.methods import METHODS

COLUMNS = ("id", "suite", "method", "level", "seed", "sparsity", "sparse_macs")
LAYERS = {"conv1/kernel": 100, "block1/kernel": 900, "classifier/kernel": 1000}
MACS = 1_000_000


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows])


def row(method, level, seed, sparsity, macs, accuracy):
    name = f"fake-{method}-{level}-seed{seed}"
    return [name, "fake", method, level, seed, sparsity, macs, accuracy, "finished"]


@pytest.fixture
def folder(tmp_path):
    """Two seeds: GMP at 90 and 99 %, STR at about 97 (and, with seed 0, dead) %."""
    rows = [row("dense", 0.0, seed, 0.0, MACS, 0.80 + 0.02 * seed) for seed in (0, 1)]
    for seed in (0, 1):
        rows.append(row("gmp", 0.9, seed, 0.9, MACS // 10, 0.78 + 0.01 * seed))
        rows.append(row("gmp", 0.99, seed, 0.99, MACS // 100, 0.70 - 0.02 * seed))
        # In the middle of the two on the logarithm of density.
        sparsity = 1 - math.sqrt(0.1 * 0.01)
        rows.append(row("str", 0.97, seed, sparsity, 12_000, 0.77))
        rows.append(row("budget_gmp", 0.97, seed, sparsity, 12_000, 0.76))
        rows.append(row("dnw", 0.9, seed, 0.9, MACS // 10, 0.75))
    rows.append(row("str", 0.99, 0, 1.0, 0, 0.1))  # every layer died
    rows.append([*row("gmp", 0.98, 0, "", "", "")[:-1], "diverged: the loss is nan"])
    write(tmp_path / "fake.csv", (*COLUMNS, "accuracy", "status"), rows)
    for name, *_ in [r for r in rows if r[2] == "str"]:
        kept = {"conv1/kernel": 50, "block1/kernel": 40, "classifier/kernel": 0}
        layers = [(path, n, kept[path]) for path, n in LAYERS.items()]
        write(
            tmp_path / "budgets" / f"{name}.csv", ("path", "params", "nonzeros"), layers
        )
    history = [
        (epoch, path, 0.1 * epoch, 10.0 ** (epoch - 6) if epoch > 1 else 0.0)
        for epoch in range(1, 5)
        for path in LAYERS
    ]
    write(
        tmp_path / "history" / "fake-str-0.97-seed0.csv",
        ("epoch", "path", "sparsity", "threshold"),
        history,
    )
    return tmp_path


def claim(results, title, level):
    (found,) = [
        c for c in claims.claims(results) if (c.title, c.level) == (title, level)
    ]
    return found


def test_claims_are_the_numbers_of_a_hand(folder):
    results, failed = analysis.read(folder / "fake.csv")
    assert failed == {"fake-gmp-0.98-seed0": "diverged: the loss is nan"}
    # GMP half way between its two runs has 0.74 and 0.735.
    found = claim(results, "STR - GMP", 0.97)
    assert found.values == pytest.approx((0.77 - 0.74, 0.77 - 0.735))
    assert found.sparsity == pytest.approx(1 - math.sqrt(0.001))
    found = claim(results, "GMP at STR's budget - GMP", 0.97)
    assert found.values == pytest.approx((0.76 - 0.74, 0.76 - 0.735))
    # Uniform MACs half way are sqrt(100,000 * 10,000).
    found = claim(results, "MACs, STR / GMP", 0.97)
    assert found.values == pytest.approx([12_000 / math.sqrt(1e9)] * 2)
    # DNW ends at 90 %, which is too far away; the net that died has no density.
    titles = {(c.title, c.level) for c in claims.claims(results) if c.values}
    assert titles == {
        ("STR - GMP", 0.97),
        ("GMP at STR's budget - GMP", 0.97),
        ("MACs, STR / GMP", 0.97),
    }
    assert claim(results, "STR - DNW", 0.97).beyond == 2


def test_collapsed_nets_are_counted_and_not_averaged():
    def run(method, seed, sparsity, accuracy):
        level = round(sparsity, 2)
        return analysis.Result("", method, level, seed, sparsity, 1000, accuracy)

    results = [run("dense", seed, 0.0, 0.85) for seed in range(3)]
    results += [run("str", 0, 0.9, 0.8), run("str", 1, 0.9, 0.81)]
    results += [run("str", 2, 0.9, 0.1)]
    # Of seed 0 both live; of seed 1 GMP is dead at 90 % and lives at 50 %.
    results += [run("gmp", 0, 0.9, 0.77), run("gmp", 1, 0.5, 0.84)]
    results += [run("gmp", 1, 0.9, 0.1), run("gmp", 2, 0.9, 0.79)]
    found = claim(results, "STR - GMP", 0.9)
    assert found.values == pytest.approx((0.03,))
    assert (found.own_dead, found.other_dead) == (1, 1)
    cell = "+3.00; 1 of its own collapsed; 1 of the other's collapsed"
    assert cell in claims.claims_table(results)
    # Of dead nets the MACs count: they are those of the rates.
    found = claim(results, "MACs, STR / GMP", 0.9)
    assert found.values == pytest.approx((1.0, 1.0)) and found.other_dead == 0


def test_presets_stand_against_other_libraries_at_equal_sparsity_and_macs():
    """By hand: seeds 0 to 2, a line of CS between 80 and 95 %, LATS at 90 %."""

    def run(method, seed, sparsity, macs, accuracy):
        return analysis.Result("", method, sparsity, seed, sparsity, macs, accuracy)

    results = []
    for seed, ahead in enumerate((0.01, 0.03, 0.02)):
        results += [run("dense", seed, 0.0, 1000, 0.9)]
        results += [run("pquant_cs", seed, 0.8, 400, 0.8)]
        results += [run("pquant_cs", seed, 0.95, 100, 0.6)]
        results += [run("lats", seed, 0.9, 200, 0.7 + ahead)]
    found = claim(results, "LATS - CS of PQuantML", 0.9)
    assert found.values == pytest.approx((0.01, 0.03, 0.02))  # half way in log density
    by_macs = claim(results, "LATS - CS of PQuantML, at equal MACs", 0.9)
    assert by_macs.values == pytest.approx((0.01, 0.03, 0.02))
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert analysis.interval(found.values) == pytest.approx(half, rel=1e-4)
    table = claims.claims_table(results)
    assert f"| +2.00 ± {100 * half:.2f} |" in table
    assert "95 % interval" in table and "a ratio" not in table
    drawn = tradeoff_figures.draw_tradeoffs(results)
    assert {*drawn} == {"accuracy_sparsity", "accuracy_macs"}
    assert analysis.interval([0.5]) is None
    with pytest.raises(ValueError, match="11 values"):
        analysis.interval([*range(11)])


def test_pressures_are_drawn_where_there_are_two():
    def run(method, level, macs, accuracy):
        return analysis.Result("", method, level, 0, level, macs, accuracy)

    runs = [run("str_filter", 0.9, 900, 0.8), run("str_filter", 0.95, 500, 0.7)]
    assert pressure_figure.draw_pressures(runs) is None
    runs += [run("str_filter_macs", 0.9, 600, 0.79)]
    picture = pressure_figure.draw_pressures(runs)
    assert Image.open(io.BytesIO(picture)).size[0] > 1000
    assert pressure_figure.PRESSURES == {
        "str_filter": 0.0,
        "str_filter_macs": 0.25,
        "str_filter_macs0.5": 0.5,
        "str_filter_macs1": 1.0,
    }


def test_a_net_far_from_its_level_says_nothing_of_the_level():
    """One seed of three lost a threshold, and so is at 88.8 instead of 98 %."""

    def run(method, seed, level, sparsity, accuracy):
        return analysis.Result("", method, level, seed, sparsity, 1000, accuracy)

    results = [run("dense", seed, 0.0, 0.0, 0.85) for seed in range(3)]
    results += [run("gmp", seed, 0.9, 0.9, 0.8) for seed in range(3)]
    results += [run("gmp", 1, 0.98, 0.98, 0.7)]
    results += [run("dnw", seed, 0.99, 0.995, 0.6) for seed in range(3)]
    results += [run("str", 0, 0.98, 0.888, 0.82), run("str", 1, 0.98, 0.974, 0.75)]
    results += [run("str", 2, 0.98, 0.976, 0.74)]
    found = claim(results, "STR - GMP", 0.98)
    gmp = 0.7 + 0.1 * math.log(0.026 / 0.02) / math.log(0.1 / 0.02)
    assert found.values == pytest.approx((0.75 - gmp,))
    assert found.sparsity == pytest.approx(0.974)
    assert (found.missed, found.beyond, found.own_dead) == (1, 1, 0)
    # From the dense net to 99.5 % there is a line, and no net on it.
    assert claim(results, "STR - DNW", 0.98).values == ()
    cell = f"{100 * (0.75 - gmp):+.2f} at 97.4 %; 1 missed the level; 1 far from"
    assert cell in claims.claims_table(results)


def test_seeds_that_differ_widely_are_each_told():
    """GMP's net of seed 1 is all but dead: a mean would be of no net."""

    def run(method, seed, sparsity, accuracy):
        return analysis.Result("", method, sparsity, seed, sparsity, 1000, accuracy)

    results = [run("dense", seed, 0.0, 0.85) for seed in range(2)]
    results += [run("str", seed, 0.9, 0.82) for seed in range(2)]
    results += [run("gmp", 0, 0.9, 0.7), run("gmp", 1, 0.9, 0.2)]
    assert "| +62.0 / +12.0 |" in claims.claims_table(results)


def test_lines_are_followed_a_quarter_further():
    def run(density, accuracy):
        return analysis.Result("", "gmp", 0.9, 0, 1 - density, 1, accuracy)

    runs = [run(0.1, 0.8), run(0.2, 0.9)]
    slope = 0.1 / math.log(2)
    for density in (0.1, 0.11, 0.2, 0.0801, 0.2499):
        found = analysis.interpolate(runs, density, lambda r: r.accuracy)
        assert found == pytest.approx(0.8 + slope * math.log(density / 0.1))
    for density in (0.0799, 0.2501):
        assert analysis.interpolate(runs, density, lambda r: r.accuracy) is None
    assert analysis.interpolate(runs[:1], 0.1, lambda r: r.accuracy) is None


def test_seeds_that_collapsed_are_in_no_mean():
    """A mean of 32.3 would be of no net; the figures show the middle one."""
    runs = [
        analysis.Result(f"{seed}", "gmp", 0.9, seed, 0.9, 1000, accuracy)
        for seed, accuracy in enumerate((0.1, 0.77, 0.1))
    ]
    table = analysis.results_table(runs)
    assert "77.0 / 10.0 / 10.0" in table and "±" not in table.splitlines()[2]


def test_sparsities_that_differ_are_each_named():
    """Their mean, 94.6 %, would be of no net: one seed's threshold fell to 0."""
    runs = [
        analysis.Result(f"{seed}", "str", 0.98, seed, sparsity, 1000, accuracy)
        for seed, (sparsity, accuracy) in enumerate(
            [(0.974, 0.672), (0.888, 0.821), (0.976, 0.709)]
        )
    ]
    table = analysis.results_table(runs)
    assert "82.1 / 70.9 / 67.2 at 88.8 / 97.6 / 97.4 %" in table


def test_tables_have_means_deviations_and_counts(folder):
    text = figures.suite_tables("fake", folder)
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    cells = {line[0]: line[1:] for line in lines if line}
    assert cells["method"] == ["90 %", "97 %", "99 %"]
    spread = statistics.stdev([78, 79])
    assert cells["GMP"] == [
        *(f"78.50 ± {spread:.2f}", "", f"69.00 ± {2 * spread:.2f}"),
    ]
    assert cells["STR"] == [
        *("", "77.00 ± 0.00 at 96.84 %", "10.00 at 100.00 % (n=1)"),
    ]
    assert cells["DNW"] == ["75.00 ± 0.00", "", ""]
    assert cells["STR - GMP"] == ["+3.25 (+3.00 to +3.50)", "1 of its own collapsed"]
    assert cells["MACs, STR / GMP"][0] == "0.38 (0.38 to 0.38)"
    assert f"Dense: 81.00 ± {2 * spread:.2f}." in text
    said = "in no mean: fake-gmp-0.98-seed0 (diverged: the loss is nan)."
    assert said in text


def test_figures_of_a_suite(folder):
    paths = figures.draw_suite("fake", folder)
    names = ("accuracy_sparsity", "accuracy_macs", "budgets", "history")
    assert [path.name for path in paths] == [f"fake_{name}.png" for name in names]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        ink = (pixels < 250).any(axis=-1)
        assert 0.01 < ink.mean() < 0.9
        edges = (ink[0], ink[-1], ink[:, 0], ink[:, -1])
        assert not any(edge.any() for edge in edges), path
        if "accuracy" in path.name:
            for method in ("str", "gmp", "dnw", "budget_gmp"):
                assert has_color(pixels, method).sum() > 50, method


def has_color(pixels, method):
    """Where an image has the color of a method."""
    color = METHODS[method].color
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels - rgb) < 8).all(axis=-1)


def test_nets_below_a_figure_stand_in_a_strip_under_it():
    """Those of one sparsity do not hide each other, nor those that live."""
    dead = ("gmp", "dnw", "uniform_oneshot")
    runs = [("dense", 0.0, 0.85), ("str", 0.9, 0.84), ("str", 0.95, 0.8)]
    runs += [(method, s, 0.1) for method in dead for s in (0.95, 0.952, 0.98)]
    results = [
        analysis.Result("", method, s, 0, s, int(1e6 * (1 - s)), accuracy)
        for method, s, accuracy in runs
    ]
    without = tradeoff_figures.draw_tradeoffs(results[:3])
    for name, png in tradeoff_figures.draw_tradeoffs(results).items():
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        with Image.open(io.BytesIO(without[name])) as image:
            height = image.height
        assert len(pixels) > height
        below = {
            # Beyond the legend and above the axis' numbers.
            method: np.flatnonzero(has_color(pixels, method)[height // 2 :].any(axis=1))
            for method in dead
        }
        rows = [set(found) for found in below.values()]
        assert all(len(found) > 5 for found in rows)
        assert not rows[0] & rows[1] and not rows[1] & rows[2]


def test_a_suite_of_dense_runs_has_a_table_alone(tmp_path):
    rows = [row("dense", 0.0, 0, 0.0, MACS, 0.8)]
    write(tmp_path / "fake.csv", (*COLUMNS, "accuracy", "status"), rows)
    assert figures.draw_suite("fake", tmp_path) == []
    assert "Dense: 80.00." in figures.suite_tables("fake", tmp_path)


def test_the_runner_writes_what_is_read():
    assert set(analysis.NEEDED) <= set(records.COLUMNS)
    assert set(runner.HISTORY_COLUMNS) == {"epoch", "path", "sparsity", "threshold"}


def test_calibrations_are_drawn_when_they_are_named(folder, capsys):
    """They have no level: each run stands at the sparsity that it has."""
    rows = [row("str", "", 0, s, int(1e6 * (1 - s)), 0.8) for s in (0.8, 0.95)]
    rows = [[f"d{i}", *cells[1:]] for i, cells in enumerate(rows)]
    write(folder / "calibrate_x.csv", (*COLUMNS, "accuracy", "status"), rows)
    where = f"--results={folder}"
    _, out, _ = programs.run(figures, [where], capsys)
    assert "calibrate" not in out
    _, out, _ = programs.run(figures, [where, "--suite=calibrate_x"], capsys)
    assert "calibrate_x_accuracy_sparsity.png" in out
    text = figures.suite_tables("calibrate_x", folder)
    assert "| STR | 80.00 | 80.00 |" in text
    assert "| method | 80 % | 95 % |" in text


def test_methods_differ_in_more_than_one_way():
    looks = [(m.color, m.marker, m.hollow) for m in METHODS.values()]
    assert len({color for color, *_ in looks}) == len(looks)
    assert len({look[1:] for look in looks}) == len(looks)


def test_the_command_draws_prints_and_fills(folder, capsys, tmp_path):
    where = f"--results={folder}"
    (folder / "rnn.csv").write_text("config,accuracy\n")  # of another program
    status, out, _ = programs.run(figures, [where], capsys)
    assert status == 0
    assert len(out.split()) == 4
    status, table, _ = programs.run(figures, [where, "--table"], capsys)
    assert status == 0
    assert "| STR - GMP |" in table
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- fake -->\nold\n<!-- end of fake -->\nb\n")
    for _ in range(2):  # also over itself
        status, _, _ = programs.run(figures, [where, f"--readme={readme}"], capsys)
        assert status == 0
        assert readme.read_text() == (
            f"a\n<!-- fake -->\n{table.strip()}\n<!-- end of fake -->\nb\n"
        )


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("<!-- x -->\n<!-- end of x -->", True),
        ("<!-- end of x -->\n<!-- x -->", False),
        ("<!-- x -->", False),
        ("<!-- x --><!-- x --><!-- end of x -->", False),
        ("", False),
    ],
)
def test_markers(tmp_path, text, ok):
    path = tmp_path / "README.md"
    path.write_text(text)
    if ok:
        markdown.fill(path, "x", "new")
        assert path.read_text() == "<!-- x -->\nnew\n<!-- end of x -->"
        return
    with pytest.raises(ValueError, match="<!-- x -->"):
        markdown.fill(path, "x", "new")
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "has no results yet"),
        (lambda path: path.write_text("id,method\n"), "has no column level"),
        (
            lambda path: path.write_text(path.read_text().replace("0.77,", "77,")),
            r"accuracy='77' is not in \[0, 1\]",
        ),
    ],
)
def test_bad_results(folder, damage, message, capsys):
    damage(folder / "fake.csv")
    arguments = [f"--results={folder}", "--suite=fake"]
    status, _, error = programs.run(figures, arguments, capsys)
    assert status == 1
    assert error.startswith("error: ")
    with pytest.raises((ValueError, OSError), match=message):
        figures.draw_suite("fake", folder)
