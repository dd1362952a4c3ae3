"""`experiments.latency` on a small net, its tables and figure. No time is asserted."""

import io
import json
import pathlib

import numpy as np
import programs
import pytest
from PIL import Image

import str_keras as stk
from experiments import latency, latency_figure, latency_nets, latency_report
from experiments.latency_nets import Net, Scale

ROOT = pathlib.Path(__file__).parents[1]
SMALL = Scale(width=0.25, size=0.15)  # 33 pixels


def recorded():
    path = ROOT / "experiments" / "results" / "latency.json"
    return json.loads(path.read_text())


def test_the_guide_shows_what_was_measured():
    record = recorded()
    assert "dirty" not in record["git_revision"]
    assert record["command"].startswith("python -m experiments.latency")
    assert {"seed", "versions"} <= set(record)
    guide = (ROOT / "docs" / "device.md").read_text()
    tables = latency_report.tables(latency_report.Results(record))
    assert {"latency", "latency_operators", "latency_widths"} <= set(tables)
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in guide
    assert "](../experiments/results/latency.png)" in guide


def test_figure():
    results = latency_report.Results(recorded())
    image = Image.open(io.BytesIO(latency_figure.draw(results)))
    assert image.size[0] > 1000 and len(image.getcolors(1 << 24)) > 50


@pytest.mark.slow
def test_a_small_net_is_timed_and_goes_on(tmp_path, capsys):
    """Run natively; again, nothing is measured twice and another net is asked for."""
    arguments = [f"--output={tmp_path}", "--width=0.25", "--size=0.15"]
    arguments += ["--groups=sparsity", "--runtimes=native", "--threads=1"]
    arguments += ["--net=90 %", "--repeats=3"]
    status, out, error = programs.run(latency, arguments, capsys)
    assert status == 0, error
    record = json.loads((tmp_path / "latency.json").read_text())
    (cell,) = record["cells"]
    dense, sparse = cell["rows"]
    assert (dense["net"], sparse["net"], sparse["baseline"]) == (
        "dense",
        "90 %",
        "dense",
    )
    assert sparse["seconds"]["number"] == 3 and sparse["trouble"] == ""
    assert sparse["baseline_seconds"] == dense["seconds"]
    facts = record["nets"]["90 %"]
    assert facts["runs"]["arm"] == "sparse" and facts["sparsity"] == pytest.approx(
        0.9, abs=0.01
    )
    assert facts["bytes"] < record["nets"]["dense"]["bytes"]
    assert (
        "| 90 % | 90.0 % |" in out and (tmp_path / "latency.png").stat().st_size > 1e4
    )
    again = programs.run(latency, arguments, capsys)[1]
    assert "recorded before" in again
    assert json.loads((tmp_path / "latency.json").read_text()) == record


def test_bad_flags_are_one_line(tmp_path, capsys):
    for arguments, said in (
        (["--groups=speed"], "Received: speed"),
        (["--draw"], "Nothing is recorded yet"),
    ):
        arguments = [f"--output={tmp_path}", *arguments]
        status, _, error = programs.run(latency, arguments, capsys)
        assert status == 1 and said in error and len(error.splitlines()) == 1


def test_forms():
    """Zeros where they are said to be, MACs counted by hand, other layers left."""
    net = Net("blocks", 0.9, block=4, stem=12, relu6=True)
    model = latency_nets.build(net, SMALL)
    kernel = np.array(model.get_layer("block3_pointwise").kernel)
    groups = kernel.reshape(-1, 4)
    zeros = (groups == 0).sum(axis=1)
    assert set(zeros) == {0, 4} and (zeros == 4).mean() == pytest.approx(0.9, abs=0.01)
    assert model.get_layer("conv1").filters == 12
    assert model.get_layer("conv1_relu").max_value == 6.0
    macs = latency_nets.macs(model)
    rows = stk.summary(model).rows
    pointwise = [row for row in rows if "pointwise" in row.path]
    assert macs["1x1"] == sum(row.macs for row in pointwise)
    kept = macs["1x1"] - sum(row.sparse_macs for row in pointwise)
    assert macs["run"] == macs["macs"] - kept
    assert macs["classifier"] == 256 * 1000 and macs["nonzero"] < macs["run"]


def test_a_wide_net_has_the_macs_of_a_narrow_one():
    wide = latency_nets.build(Net("wide", like=0.5), SMALL)
    narrow = latency_nets.build(Net("narrow", alpha=0.5, stored="dense"), SMALL)
    found = latency_nets.macs(wide)["nonzero"]
    assert found == pytest.approx(latency_nets.macs(narrow)["macs"], rel=0.01)


@pytest.mark.parametrize("budget", latency.LEARNED.values())
def test_budgets_of_str_fit_by_name(budget):
    learned = stk.budget.read(latency_nets.BUDGETS / f"{budget}.csv")
    model = latency_nets.build(Net("x", budget=budget), SMALL)
    rows = stk.summary(model).rows
    assert {row.path for row in rows} == set(learned.rates)
    for row in rows:
        assert row.sparsity == pytest.approx(
            learned.rates[row.path], abs=1 / row.params
        )


def test_kernels_of_profiles_are_told_apart():
    profile = {
        "Convolution (NCHW, F32) Conv2D HWC2CHW": 1.0,
        "Convolution (NHWC, F32) IGEMM": 2.0,
        "Convolution (NCHW, F32) DWConv": 4.0,
        "Convolution (NCHW, F32) SPMM": 8.0,
        "Fully Connected (NC, F32) GEMM": 16.0,
        "Mean (ND) Reduce2": 32.0,
    }
    expected = {"first": 3.0, "depthwise": 4.0, "1x1": 24.0, "other": 32.0}
    assert latency_report.by_class(profile) == expected
