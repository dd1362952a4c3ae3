"""experiments.channels, with an epoch and a round of its smallest cell."""

import csv
import json

import keras
import programs
import pytest

from experiments import channels

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="it measures LiteRT too"
)


@pytest.mark.long
def test_a_cell_is_trained_shrunk_and_recorded(tmp_path, capsys):
    flags = ["--cells=mobilenetv1 STR-BN", "--epochs=1", "--rounds=1", "--seed=3"]
    status, out, error = programs.run(
        channels, [*flags, f"--output={tmp_path}"], capsys
    )
    assert status == 0, error
    record = json.loads((tmp_path / "channels.json").read_text())
    (cell,) = record["cells"]
    assert record["seed"] == 3 and cell["epochs"] == 1
    assert cell["params"][1] <= cell["params"][0] and cell["macs"][0] > 3_000_000
    assert cell["difference"] <= 1e-5 and len(cell["lite_latency"]) == 2
    with (tmp_path / "channels.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "mobilenetv1 STR-BN" and row["threshold_decay"] == "0.08"
    assert int(row["params_after"]) == cell["params"][1]
    for name in ("backend", "hardware", "versions", "git_revision", "command"):
        assert row[name] == record[name]
    assert "accuracy_before" in out


def test_unknown_cells_are_named(tmp_path, capsys):
    flags = ["--cells=mobilenetv2", f"--output={tmp_path}"]
    status, _, error = programs.run(channels, flags, capsys)
    assert status == 1 and "mobilenetv1 STR-BN" in error and "['mobilenetv2']" in error
    assert not list(tmp_path.iterdir())
