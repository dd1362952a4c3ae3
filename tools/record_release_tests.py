"""Records in docs/releases.md what the tests of a release said last.

    python tools/record_release_tests.py --tests=build/long.xml
    python tools/record_release_tests.py --coverage=build/coverage.json

`make test-long` and `make coverage` run it, whether tests passed or not: the page tells
of the last run, with its date, revision and versions.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
from collections.abc import Iterable
from xml.etree import ElementTree

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import files, run_directory

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "releases.md"
LOW = 80  # percent below which a module is named


def stamp() -> str:
    """When, on which revision, with what."""
    day = datetime.datetime.now(datetime.UTC).date()
    revision = run_directory.git_revision(ignore=("docs/releases.md",))
    versions = ", ".join(f"{k} {v}" for k, v in run_directory.versions().items())
    return f"{day}, revision `{revision}`, {os.cpu_count()} cores; {versions}."


def tests_text(report: pathlib.Path) -> str:
    """Of a JUnit file: counts and minutes by file of tests, and what failed.

    Args:
        report: What `pytest --junitxml` wrote.

    Raises:
        ValueError: if it holds no test.
    """
    counts: dict[str, collections.Counter[str]] = {}
    seconds: dict[str, float] = collections.defaultdict(float)
    failed = []
    # Our own pytest wrote it: no file of others is parsed here.
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        # classname is the module's dotted path, and the class's in it if there is one.
        file = next(
            (p for p in case.get("classname", "").split(".") if p.startswith("test_")),
            "",
        )
        tags = {child.tag for child in case}
        result = "failed" if tags & {"failure", "error"} else "passed"
        result = "skipped" if "skipped" in tags else result
        counts.setdefault(file, collections.Counter())[result] += 1
        seconds[file] += float(case.get("time", 0))
        if result == "failed":
            failed.append(f"`{file}.py::{case.get('name')}`")
    if not counts:
        raise ValueError(
            "the report holds no test: name what pytest --junitxml wrote. "
            f"Received: tests={os.fspath(report)!r}"
        )
    total = sum(counts.values(), collections.Counter())
    lines = [
        f"{'Failed' if failed else 'Passed'}: {stamp()}",
        "",
        "| tests | passed | failed | skipped | minutes |",
        "| --- | --: | --: | --: | --: |",
    ]
    lines += [
        _row(f"`{file}.py`", counts[file], seconds[file]) for file in sorted(counts)
    ]
    lines.append(_row("**all**", total, sum(seconds.values())))
    if failed:
        lines += ["", f"What failed: {', '.join(failed)}."]
    return "\n".join(lines)


def _row(name: str, count: collections.Counter[str], seconds: float) -> str:
    cells = [str(count[result]) for result in ("passed", "failed", "skipped")]
    return f"| {name} | {' | '.join(cells)} | {seconds / 60:.1f} |"


def coverage_text(report: pathlib.Path) -> str:
    """Of coverage's JSON: the share of statements, and the modules with few.

    Args:
        report: What `coverage json` wrote.
    """
    found = json.loads(report.read_text(encoding="utf-8"))
    totals = found["totals"]
    low = sorted(
        (file["summary"]["percent_covered"], pathlib.PurePath(path).as_posix())
        for path, file in found["files"].items()
        if file["summary"]["percent_covered"] < LOW
    )
    named = ", ".join(f"`{path}` ({share:.0f} %)" for share, path in low) or "none"
    return (
        f"{totals['percent_covered']:.1f} % of {totals['num_statements']:,} statements "
        f"run: {stamp()}\n\nModules below {LOW} %: {named}."
    )


def put(text: str, part: str) -> None:
    """Puts a text between the page's marks of a part, "tests" or "coverage"."""
    first, last = f"<!-- {part} -->\n", f"\n<!-- end of {part} -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(first)
    _, _, after = rest.partition(last)
    files.write_text(PAGE, f"{before}{first}{text}{last}{after}")


def main(arguments: Iterable[str] | None = None) -> None:
    """Records what the flags name."""
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tests", type=pathlib.Path, help="pytest's JUnit file")
    parser.add_argument("--coverage", type=pathlib.Path, help="coverage's JSON file")
    flags = parser.parse_args(None if arguments is None else list(arguments))
    if flags.tests:
        put(tests_text(flags.tests), "tests")
    if flags.coverage:
        put(coverage_text(flags.coverage), "coverage")


if __name__ == "__main__":
    main()
