"""The demonstration's picture and numbers, from its page in headless Chromium."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from experiments import demo_site, records
from str_keras.cli import UserError
from str_keras.export.runtimes import installed
from str_keras.files import write_text
from str_keras.run_directory import git_revision

MEASUREMENTS = 5
WIDTH = 1200
_METHODS = {"dense": "dense", "sparse": "str"}


def write_record(
    site: pathlib.Path, output: pathlib.Path, picture: pathlib.Path, command: str
) -> dict[str, Any]:
    """Takes the page's picture and writes output/result.json.

    Args:
        site: A complete one.
        output: Where the twins' runs are, if they were trained here.
        picture: The PNG to write, `WIDTH` pixels wide.
        command: What the user called.

    Returns:
        What the file holds: of each twin accuracy, weights, bytes, and the quartiles of
        its milliseconds in the measurement of the median ratio.

    Raises:
        UserError: if Chromium or LiteRT.js is missing, or the page shows an error.
    """
    missing = installed.available("wasm")
    if missing:
        raise UserError(missing)
    revision = git_revision()  # before the picture is written, perhaps into it
    with _served(site) as url:
        seen = _look(url, picture)
    times = seen["milliseconds"]
    ratios = [dense["median"] / sparse["median"] for dense, sparse in times]
    middle = sorted(range(len(ratios)), key=ratios.__getitem__)[len(ratios) // 2]
    twins = {}
    for i, kind in enumerate(demo_site.KINDS):
        quartiles = {name: round(value, 4) for name, value in times[middle][i].items()}
        measured = {"gzip_bytes": seen["gzip_bytes"][i], "milliseconds": quartiles}
        twins[kind] = _facts(site, output, kind) | measured
    smaller = twins["dense"]["bytes"] / twins["sparse"]["bytes"]
    record = {
        "command": command,
        "dense_bytes_over_sparse": round(smaller, 3),
        "dense_time_over_sparse": round(statistics.median(ratios), 3),
        "of_measurements": [round(ratio, 3) for ratio in ratios],
        "runs_of_each": seen["runs"],
        "runtime": seen["runtime"],
        "hardware": records.hardware(None),
        "versions": installed.runtime_versions(["wasm"]),
        "git_revision": revision,
        **twins,
    }
    write_text(output / "result.json", json.dumps(record, indent=1) + "\n")
    return record


@contextlib.contextmanager
def _served(site: pathlib.Path) -> Iterator[str]:
    with demo_site.create_server(site, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


def _look(url: str, picture: pathlib.Path) -> dict[str, Any]:
    picture.parent.mkdir(parents=True, exist_ok=True)
    job = {
        "url": url,
        "picture": str(picture),
        "measurements": MEASUREMENTS,
        "width": WIDTH,
    }
    script = pathlib.Path(__file__).with_name("demo_picture.mjs")
    web, chromium = installed.home() / "web", str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        done = subprocess.run(
            ["node", script, path, web, chromium],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line]
        raise UserError(f"the page did not run: {' '.join(said[:1]) or done.stderr}")
    return json.loads(done.stdout)


def _facts(site: pathlib.Path, output: pathlib.Path, kind: str) -> dict[str, Any]:
    """Of one twin: from the JSON of its file, and from its run if there is one."""
    told = json.loads((site / "models" / f"{kind}.json").read_text(encoding="utf-8"))
    verified = told.get("verified") or {}
    found = {
        "accuracy": verified.get("top1"),
        "accuracy_on": verified.get("on"),
        "kernel_params": told["params"],
        "nonzeros": told["nonzeros"],
        "sparsity": round(1 - told["nonzeros"] / told["params"], 5),
        "bytes": told["bytes"],
        "kernels_in_wasm": told.get("runs", {}).get("wasm"),
    }
    run = output / _METHODS[kind]
    if not (run / "summary.json").is_file():
        return found
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    kernels = json.loads((run / "summary.json").read_text(encoding="utf-8"))["kernels"]
    trained = ("command", "git_revision", "versions")
    return found | {
        "macs_of_nonzeros": kernels["sparse_macs"],
        "macs": kernels["macs"],
        "seed": config["config"]["seed"],
        "trained": {name: config[name] for name in trained},
    }
