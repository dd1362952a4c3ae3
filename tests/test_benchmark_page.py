"""The page of tools/benchmark_web in headless Chromium. No time is asserted."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import runtime_files

from experiments import demo_site
from str_keras.export.runtimes import installed

ROOT = pathlib.Path(__file__).parents[1]
TOOL = ROOT / "tools" / "benchmark_web" / "serve.py"
RUNS = 6


@pytest.fixture(scope="module")
def serve():
    spec = importlib.util.spec_from_file_location("benchmark_web_serve", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.runtimes
def test_files_are_timed_in_turn_and_compared(serve, tmp_path):
    files = runtime_files.write(tmp_path, "float32", "float32 sparse")
    head = tmp_path / "head.tflite"
    head.write_bytes(runtime_files.content("conv", sparse=True))
    wrong = tmp_path / "text.tflite"
    wrong.write_text("This is no model.")
    (tmp_path / "site").mkdir()
    serve.write_site(tmp_path / "site", [str(files["float32"])])
    server = demo_site.create_server(tmp_path / "site", "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    added = [str(files["float32 sparse"]), str(head)]
    job = {
        "url": f"http://127.0.0.1:{server.server_address[1]}/",
        "wrong": str(wrong),
        "added": added,
        "runs": RUNS,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    web = installed.home() / "web"
    script = pathlib.Path(__file__).parent / "benchmark_page.mjs"
    done = subprocess.run(
        ["node", script, tmp_path / "job.json", web, str(shutil.which("chromium"))],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["faults"] == [] and "float32.tflite" in told["listed"]
    assert told["error"] == "text.tflite is no .tflite file."
    assert told["enabled"] == [False, True, False]  # the third: the error, cleared
    assert told["refused"] == "Runs are a whole number from 5 to 400."
    check_report(told["report"], told["results"])
    assert (told["status"], told["name"]) == ("Measured.", "times.json")
    assert told["width"] == 360  # nothing to scroll to the side
    assert told["passes"] > 15 and told["violations"] == []


def check_report(report, shown):
    names = ["float32.tflite", "float32-sparse.tflite", "head.tflite"]
    assert (report["baseline"], list(report["bytes"])) == (names[0], names)
    assert re.fullmatch(r"\d+\.\d+\.\d+", report["versions"]["@litertjs/core"])
    rows = {(row["threads"], row["file"]): row for row in report["rows"]}
    assert list(rows) == [(number, name) for number in (1, 2) for name in names]
    for number in (1, 2):
        dense, sparse, head = (rows[number, name] for name in names)
        for row in (dense, sparse):
            times = np.array(row["milliseconds"])
            assert times.shape == (RUNS,) and (times > 0).all() and not row["trouble"]
            assert_spread(row["seconds"], times / 1e3)
        assert dense["faster"] is None and dense["difference"] is None
        ratios = np.divide(dense["milliseconds"], sparse["milliseconds"])
        assert_spread(sparse["faster"], ratios)
        median = np.median(ratios)
        told = f"{median:.1f} times faster"
        assert median < 1.05 or told in shown
        assert 0 < sparse["difference"] < 1e-5
        # Wrong where sparse kernels are on: its output is memory that no kernel wrote,
        # often zeros, which have no speed, else whatever lay there.
        if head["trouble"]:
            reasons = "nothing but zeros", "numbers that are not finite"
            assert head["trouble"] in {f"head.tflite gives {why}" for why in reasons}
            assert head["seconds"] is None and head["faster"] is None
        else:
            assert head["difference"] > 1e-3
            assert "other outputs: another network, or a wrong result" in shown


def assert_spread(found, values):
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    expected = {"median": median, "low": low, "high": high, "number": len(values)}
    assert found == pytest.approx(expected)


@pytest.mark.runtimes
def test_bad_files_are_refused(serve, tmp_path):
    for place, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.tflite").write_text(str(place))
    paths = [str(tmp_path / name / "same.tflite") for name in ("a", "b")]
    (tmp_path / "site").mkdir()
    with pytest.raises(ValueError, match=r"same name\. Received: same\.tflite"):
        serve.write_site(tmp_path / "site", paths)
    done = subprocess.run(
        [sys.executable, TOOL, "--port=0", "--model=missing.tflite"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no such file. Received: file=missing.tflite" in done.stderr
    assert len(done.stderr.splitlines()) == 1
