"""What would be released is built, installed and tried where nothing else is."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest
from test_site import TOOLS

from tools import record_release_tests

ROOT = pathlib.Path(__file__).parents[1]
CHECK = ROOT / "tools" / "check_release.sh"


def run(dist, tools):
    return subprocess.run(
        [CHECK],
        env={**os.environ, "PYTHON": sys.executable, "TOOLS": str(tools), "DIST": dist},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_release_check_passes(tmp_path):
    if not TOOLS.is_file():
        pytest.skip("no Python with build and twine: run `make test-long`")
    done = run(str(tmp_path / "dist"), TOOLS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("release check passed: ")
    assert done.stdout.count("PASSED") == 2
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"str_keras"}
    data = {"py.typed", "budget/resnet50_published.csv", "reporting/page.html"}
    data |= {"data/embedded/LICENSE.fashion_mnist"}
    assert {f"str_keras/{name}" for name in data} <= set(names)
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


@pytest.mark.slow
def test_release_check_says_what_it_wants(tmp_path):
    done = run(str(tmp_path / "dist"), tmp_path / "python")
    assert done.returncode == 1
    assert done.stderr.startswith("error: TOOLS names no Python with build and twine")
    assert not (tmp_path / "dist").exists()


REPORT = """<testsuites><testsuite>
<testcase classname="t.test_a" name="test_one[2]" time="90"/>
<testcase classname="t.test_a.Case" name="test_two" time="30"><failure/></testcase>
<testcase classname="t.parity.test_b" name="test_three" time="6"><skipped/></testcase>
</testsuite></testsuites>"""


def test_results_are_recorded_between_their_marks(tmp_path, monkeypatch):
    page = tmp_path / "releases.md"
    page.write_text(record_release_tests.PAGE.read_text() + "After.\n")
    monkeypatch.setattr(record_release_tests, "PAGE", page)
    (tmp_path / "long.xml").write_text(REPORT)
    low = {"summary": {"percent_covered": 61.4}}
    high = {"summary": {"percent_covered": 99.0}}
    totals = {"percent_covered": 93.26, "num_statements": 12345}
    (tmp_path / "coverage.json").write_text(
        json.dumps({"totals": totals, "files": {"a/low.py": low, "a/high.py": high}})
    )
    for _ in range(2):  # the second time in the place of the first
        record_release_tests.main([f"--tests={tmp_path}/long.xml"])
        record_release_tests.main([f"--coverage={tmp_path}/coverage.json"])
        text = page.read_text()
        assert text.count("| `test_a.py` | 1 | 1 | 0 | 2.0 |") == 1
        assert text.count("| **all** | 1 | 1 | 1 | 2.1 |") == 1
        assert text.count("What failed: `test_a.py::test_two`.") == 1
        assert text.count("93.3 % of 12,345 statements run: ") == 1
        assert text.count("Modules below 80 %: `a/low.py` (61 %).") == 1
        assert "Not recorded yet" not in text and text.endswith("-->\nAfter.\n")
    assert text.count("Failed: ") == 1 and text.count("revision `") == 2
    (tmp_path / "long.xml").write_text("<testsuites/>")
    with pytest.raises(ValueError, match=r"holds no test.*Received: tests="):
        record_release_tests.main([f"--tests={tmp_path}/long.xml"])
    assert page.read_text() == text
