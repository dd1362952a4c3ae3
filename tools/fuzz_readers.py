#!/usr/bin/env python
"""Fuzzes what reads files of others: `python tools/fuzz_readers.py --seconds=60`.

Atheris (libFuzzer) changes small whole files and follows which lines of str_keras they
reach. A reader may read what comes of it, or refuse it by a ValueError or an OSError;
any other exception is a bug: the file that leads to it is kept in --output, and the
exit status is 1. Each reader has a process and an equal share of the time.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
SEEDS = {
    "budget.csv": b"path,sparsity\nconv1/kernel,0.5\nfc/kernel,0.25\n",
    "budget.json": b'{"name":"a","layers":[{"path":"fc/kernel","sparsity":0.5}]}',
    "config.toml": b'architecture = "mobilenetv1"\nepochs = 9\nlr = 0.1\nxla = false\n',
    "config.json": b'{"config": {"architecture": "resnet50", "epochs": 9, "lr": 1e-1}}',
    "table.csv": b"epoch,loss,accuracy\n1,0.5,0.75\n2,0.25,0.8\n",
    "record.json": b'{"epochs": 3, "name": "x", "loss": [1.0, NaN, -1e400]}',
    "images.gz": gzip.compress(b"\0\0\x08\x01\0\0\0\x03abc", mtime=0),
    "model.keras": b"",
    "weights.pth": b"",
}
"""A whole file of each reader; those that are empty here are made."""
LONGEST = 1 << 16
"""Bytes of an input."""


def _write_model(path: pathlib.Path) -> None:
    import keras

    layers = [keras.Input((2,)), keras.layers.Dense(1, name="fc")]
    keras.Sequential(layers).save(path)


def _write_weights(path: pathlib.Path) -> None:
    import torch

    torch.save({"state_dict": {"fc.weight": torch.zeros(1, 2)}}, path)


def seed(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the whole file of a reader.

    Args:
        name: Key of `SEEDS`.
        folder: For it.
    """
    path = folder / name
    path.write_bytes(SEEDS[name])
    if name.endswith(".keras"):
        _write_model(path)
    if name.endswith(".pth"):
        _write_weights(path)
    return path


def reader(name: str) -> Callable[[pathlib.Path], Any]:
    """What reads files of a name.

    Args:
        name: Key of `SEEDS`.
    """
    from str_keras import checkpoint, config_files, torch_checkpoints
    from str_keras.budget import Budget
    from str_keras.data.fashion_mnist import read_idx
    from str_keras.reporting.reading import read_csv, read_json

    def read_table(path: pathlib.Path) -> None:
        for line in read_csv(path, ("epoch", "loss")):
            line.need("epoch", int)
            line.parse("loss")

    def read_config(path: pathlib.Path) -> None:
        config_files.from_dict(config_files.read(path), str(path))

    readers: dict[str, Callable[[pathlib.Path], Any]] = {
        "budget": Budget.read,
        "config": read_config,
        "table": read_table,
        "record": lambda path: read_json(path, {"epochs": int}),
        "images": read_idx,
        "model": checkpoint.load_model,
        "weights": torch_checkpoints.load,
    }
    return readers[name.partition(".")[0]]


def fuzz(name: str, seconds: int, output: pathlib.Path) -> None:
    """Fuzzes one reader; libFuzzer ends the process.

    Args:
        name: Key of `SEEDS`.
        seconds: In which to do it.
        output: Folder for what a bug is found with.
    """
    atheris: Any = importlib.import_module("atheris")  # on Linux only
    with atheris.instrument_imports(
        include=["str_keras"], enable_loader_override=False
    ):
        read = reader(name)
    folder = pathlib.Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    seed(name, corpus)

    def once(content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        with contextlib.suppress(ValueError, OSError):  # refused, as documented
            read(path)

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-seed=1"]
    options += [f"-artifact_prefix={output}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def main() -> None:
    """Fuzzes the readers one after the other."""
    names = FLAGS.reader or list(SEEDS)
    for name in names:
        if name not in SEEDS:
            raise ValueError(
                f"--reader has names of {', '.join(SEEDS)}. Received: {name!r}"
            )
    output = pathlib.Path(FLAGS.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    share = max(1, FLAGS.seconds // len(names))
    if FLAGS.child:
        fuzz(names[0], share, output)
        return
    failed = []
    for name in names:
        words = [sys.executable, __file__, "--child", f"--reader={name}"]
        words += [f"--seconds={share}", f"--output={output}"]
        done = subprocess.run(words, capture_output=True, text=True)
        runs = [x for x in done.stderr.splitlines() if "number_of_executed_units" in x]
        print(f"{name}: {runs[0].split()[-1] if runs else 'no'} inputs", flush=True)
        if done.returncode:
            failed.append(name)
            told = [*done.stdout.splitlines(), *done.stderr.splitlines()[-40:]]
            print("\n".join(told), file=sys.stderr)
    if failed:
        raise ValueError(
            f"Readers fail by what is no ValueError or OSError: {', '.join(failed)}. "
            f"The files are in {output}"
        )


if __name__ == "__main__":
    flags.DEFINE_integer("seconds", 60, "In all.", 1)
    flags.DEFINE_list("reader", [], f"Of {', '.join(SEEDS)}; all if empty.")
    flags.DEFINE_string("output", "fuzzed", "Folder for files that show bugs.")
    flags.DEFINE_boolean("child", False, "Fuzz the one reader in this process.")
    cli.run(main)
