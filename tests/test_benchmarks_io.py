"""Benchmarks of pipeline and tools, on little: what they count and how it is told."""

import csv

import keras
import pytest
import tensorflow as tf

from benchmarks import figures, pipeline, report, tools

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="measures TensorFlow"
)


def test_a_figure_is_median_quartiles_and_goal():
    row = figures.row("ratio", "", [3.0, 1.0, 2.0], 2.0)
    assert (row["low"], row["median"], row["high"]) == (1.5, 2.0, 2.5)
    assert row["goal"] == "at least 2.0" and row["met"] == "yes"
    assert figures.row("ratio", "", [1.9], 2.0)["met"] == "no"
    assert figures.row("seconds", "s", [1.0])["met"] == ""


def test_figures_are_recorded_with_what_they_come_from(tmp_path):
    rows = [figures.row("strip", "s", [1.0, 2.0])]
    shown = figures.write("tools", rows, 1, tmp_path / "more" / "tools.csv")
    assert "| strip | s | 1.5 |" in shown
    with (tmp_path / "more" / "tools.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["command"].startswith("python -m benchmarks.tools")
    assert "keras" in row["versions"] and row["hardware"]
    assert report.section(tmp_path / "more" / "tools.csv") == shown


@pytest.mark.slow
def test_the_decoder_sees_the_windows_of_the_training(tmp_path):
    paths = pipeline.write_images(tmp_path, 4)
    sizes = {tuple(tf.io.decode_jpeg(tf.io.read_file(p)).shape) for p in paths}
    assert sizes == {(pipeline.HEIGHT, pipeline.WIDTH, 3)}
    (brightest,) = pipeline.decoder(paths, 0)
    assert brightest.shape == (4,)
    rows = pipeline.measure(tmp_path, 4, 2, 2)
    assert [row["unit"] for row in rows] == ["images/s"] * 3 + [""] * 2
    assert all(row["median"] > 0 for row in rows)


@pytest.mark.slow
def test_each_tool_is_timed(tmp_path):
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2),
    ]
    rows = tools.measure(keras.Sequential(layers), 2, 8, tmp_path)
    assert len(rows) == 7 and all(row["median"] > 0 for row in rows)
    assert (tmp_path / "model.tflite").is_file()
