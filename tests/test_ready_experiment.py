"""The guide's table of keras.applications is what was recorded, and how it is made."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments import ready

ROOT = pathlib.Path(__file__).parents[1]
RECORD = ROOT / "experiments" / "results" / "ready.json"


def between_markers(path):
    _, _, rest = path.read_text().partition("<!-- ready -->\n")
    return rest.partition("\n<!-- end of ready -->")[0]


def test_the_guide_shows_what_was_recorded():
    record = json.loads(RECORD.read_text())
    assert between_markers(ROOT / "docs" / "device.md") == ready.table(record["nets"])
    assert list(record["nets"]) == list(ready.NETS)
    assert record["git_revision"] and "dirty" not in record["git_revision"]
    for name, net in record["nets"].items():
        ready.check_verdicts(name, net)
        assert net["difference"] <= 1e-5
        assert net["is_ready"] == (net["ready"]["verdicts"]["arm"] == "sparse")


@pytest.mark.parametrize(
    ("kind", "change", "shown"),
    [
        ("as_it_is", {"error": "failed to reshape"}, "refused"),
        ("ready", {"difference": 0.3}, "wrong"),
        ("ready", {"difference": float("nan")}, "wrong"),
        ("ready", {"sparse_kernels": False}, "dense"),
    ],
)
def test_a_verdict_that_is_not_true_is_not_recorded(kind, change, shown):
    net = json.loads(RECORD.read_text())["nets"]["MobileNetV2"]
    run = net["runs"]["x86_no_avx"]
    run[kind] = run[kind] | change
    with pytest.raises(RuntimeError, match=f"{kind}, x86_no_avx: .*shown='{shown}'"):
        ready.check_verdicts("MobileNetV2", net)


@pytest.mark.runtimes
def test_experiment(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- ready -->\n<!-- end of ready -->\n")
    places = [f"--results={tmp_path}", f"--readme={readme}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ready", "--net=MobileNetV3Small", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    net = json.loads((tmp_path / "ready.json").read_text())["nets"]["MobileNetV3Small"]
    assert between_markers(readme) == ready.table({"MobileNetV3Small": net})
    assert net["as_it_is"]["failures"][0]["rule"] == "padding"
    assert net["is_ready"] and net["ready"]["zeros_in_them"] == pytest.approx(0.9, 1e-3)
    run, counted = net["runs"]["x86_no_avx"]["ready"], net["runs"]["instructions"]
    assert run["sparse_kernels"] and run["difference"] < ready.TOLERANCE
    assert counted["dense_twin"] > 1.5 * counted["ready"]
