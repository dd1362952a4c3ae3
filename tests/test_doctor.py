"""What the doctor finds in whole and in broken environments."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import str_keras as stk
from str_keras import diagnosis
from str_keras.diagnosis import combinations, machine, trying

# Found by a child's Python at its start: as if packages were not installed.
WITHOUT = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["WITHOUT"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
"""


def run_doctor(folder, *flags, without="", **variables):
    (folder / "sitecustomize.py").write_text(WITHOUT)
    variables |= {"PYTHONPATH": str(folder), "WITHOUT": without}
    return subprocess.run(
        [sys.executable, "-m", "str_keras.doctor", *flags],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.mark.slow
def test_trains_and_warns_where_training_works(tmp_path):
    done = run_doctor(
        tmp_path, "--json", KERAS_BACKEND="tensorflow", TF_USE_LEGACY_KERAS="1"
    )
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    found = {(f["topic"], f["name"]): f for f in record["findings"]}
    legacy = found["environment", "TF_USE_LEGACY_KERAS"]
    assert record["works"]
    assert legacy["state"] == "warning"
    assert "unset" in legacy["mend"]
    trial = [f for f in record["findings"] if f["topic"] == "training"]
    assert [f["state"] for f in trial] == ["ok"] * 5
    assert found["packages", "keras"]["told"] == keras.__version__
    assert found["combinations", "one_device"]["state"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "backend", "told", "mend"),
    [
        ("tensorflow", "nonsense", "backend : nonsense", "set KERAS_BACKEND"),
        ("tensorflow", "tensorflow", "No module named 'tensorflow'", "pip install"),
        ("torch,tensorflow", "torch", "No module named 'torch'", "'str_keras[torch]'"),
        ("rich,tensorflow", "", "No module named 'tensorflow'", "'str_keras'"),
    ],
)
def test_ends_with_status_1_and_the_mend(tmp_path, without, backend, told, mend):
    done = run_doctor(tmp_path, without=without, KERAS_BACKEND=backend)
    assert (done.returncode, done.stderr) == (1, "")
    assert told in done.stdout
    first = done.stdout.partition("What to do:\n")[2].splitlines()[0]
    assert first.startswith("- error: importing Keras")
    assert mend in first
    assert done.stdout.splitlines()[-1].startswith("training does not work here")


@pytest.mark.slow
def test_says_in_one_line_that_it_cannot_even_start(tmp_path):
    done = run_doctor(tmp_path, without="absl")
    assert done.returncode == 1
    assert done.stderr == "error: absl is not installed: pip install str_keras\n"


@pytest.mark.slow
def test_explains_its_flags_and_refuses_bad_ones(tmp_path):
    done = run_doctor(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--run_dir" in done.stdout
    done = run_doctor(tmp_path, "--timeout=0")
    assert done.returncode == 1
    assert done.stderr == "error: flag --timeout=0: 0 is not a positive integer\n"


def test_a_trial_that_takes_too_long_is_ended():
    trial = diagnosis.try_training(0.05)
    (finding,) = diagnosis.examine_trial(trial)
    assert (finding.state, finding.told) == ("error", "not done after 0.05 seconds")
    assert "--timeout" in finding.mend


def test_tells_the_exception_and_the_stage_of_a_child(tmp_path, monkeypatch):
    child = tmp_path / "child_that_fails.py"
    child.write_text(
        "import os\n"
        f'print({trying.MARK!r} + \'{{"stage": "import", "backend": "jax"}}\')\n'
        "raise RuntimeError('no weight\\n  was trained')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(trying, "_MODULE", child.stem)
    trial = diagnosis.try_training(60)
    assert (trial.failed, trial.status) == ("devices", 1)
    assert trial.reason == "RuntimeError: no weight"
    assert trial.devices == {}
    passed, failed = diagnosis.examine_trial(trial)
    assert (passed.state, passed.told) == ("ok", "backend jax")
    assert (failed.name, failed.state) == ("listing devices", "error")
    child.write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    trial = diagnosis.try_training(60)
    assert trial.status == -signal.SIGILL
    assert trial.reason == "the process was ended by SIGILL"
    assert "AVX" in diagnosis.examine_trial(trial)[0].mend


def test_warns_of_a_gpu_that_the_backend_does_not_see(tmp_path, monkeypatch):
    trial = diagnosis.Trial(
        {"import": {"backend": "tensorflow"}, "devices": {"devices": {"CPU": 1}}}
    )
    monkeypatch.setattr(trying, "_has_nvidia", lambda: True)
    finding = by_name(diagnosis.examine_trial(trial))["devices"]
    assert finding.state == "warning"
    assert "tensorflow[and-cuda]" in finding.mend
    seen = diagnosis.Trial(trial.passed | {"devices": {"devices": {"GPU": 1}}})
    assert by_name(diagnosis.examine_trial(seen))["devices"].state == "ok"


def test_compares_versions_with_the_ranges(monkeypatch):
    versions = {"str_keras": "1.0", "keras": "3.14.0", "numpy": "2.1", "onnx": "0.1"}
    wanted = [
        "keras>=3.15,<3.16",
        "numpy>=2",
        "missing>=1",
        "onnx>=1.2; extra == 'onnx'",
        'jax<2; extra == "jax"',
        "pytest; extra == 'dev'",
    ]

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    found = by_name(diagnosis.examine_packages())
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        "str_keras": "ok",
        "keras": "warning",
        "numpy": "ok",
        "missing": "warning",
        "onnx": "warning",
        "jax": "note",
    }
    assert found["keras"].mend == "pip install 'keras>=3.15,<3.16'"
    assert found["jax"].mend == "pip install 'str_keras[jax]'"
    versions.clear()
    (finding,) = diagnosis.examine_packages()
    assert (finding.name, finding.state) == ("str_keras", "warning")


@pytest.mark.parametrize(
    ("flags", "state"), [("sse4_2 avx avx2", "ok"), ("sse4_2", "warning"), ("", "ok")]
)
def test_warns_of_a_processor_without_avx(tmp_path, monkeypatch, flags, state):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: A: processor\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    finding = by_name(diagnosis.examine_machine(tmp_path))["processor"]
    assert finding.state == state
    assert "A: processor" in finding.told
    assert ("AVX" in finding.told) == (state == "warning")


@pytest.mark.parametrize(
    ("available", "limit", "state"),
    [(8, "max", "ok"), (1, "max", "warning"), (8, str(1 << 30), "warning")],
)
def test_warns_of_little_memory(tmp_path, monkeypatch, available, limit, state):
    meminfo, maximum = tmp_path / "meminfo", tmp_path / "memory.max"
    total = 16 << 20
    meminfo.write_text(f"MemTotal: {total} kB\nMemAvailable: {available << 20} kB\n")
    maximum.write_text(limit)
    monkeypatch.setattr(machine, "_MEMINFO", meminfo)
    monkeypatch.setattr(machine, "_LIMITS", (maximum, tmp_path / "none"))
    finding = by_name(diagnosis.examine_machine(tmp_path))["memory"]
    assert finding.state == state
    assert "16.0 GiB" in finding.told
    assert ("control group" in finding.told) == (limit != "max")


def test_warns_of_a_folder_for_runs_that_takes_none(tmp_path, monkeypatch):
    def disk(folder):
        return by_name(diagnosis.examine_machine(folder))["disk of runs"]

    assert disk(tmp_path / "new" / "run").state == "ok"
    (tmp_path / "file").touch()
    assert "is a file" in disk(tmp_path / "file" / "run").told
    monkeypatch.setattr(machine, "LOW_DISK", 1 << 60)
    assert "make room" in disk(tmp_path).mend


@pytest.mark.parametrize(
    ("variables", "keras_json", "name", "state", "told"),
    [
        ({}, None, "backend", "ok", "tensorflow"),
        ({}, '{"backend": "torch"}', "backend", "note", "torch, by keras.json"),
        ({}, '{"floatx": "float16"}', "keras.json", "warning", "floatx='float16'"),
        ({}, "[" * 100_000, "keras.json", "warning", "is no JSON"),
        ({}, "[]", "keras.json", "warning", "is no JSON"),
        ({"KERAS_BACKEND": "jax"}, None, "backend", "note", "by KERAS_BACKEND"),
        ({"KERAS_BACKEND": "x"}, None, "backend", "warning", "no backend"),
        ({"TF_USE_LEGACY_KERAS": "0"}, None, "TF_USE_LEGACY_KERAS", "ok", "0"),
        ({"TF_USE_LEGACY_KERAS": "True"}, None, "TF_USE_LEGACY_KERAS", "warning", ""),
        ({"TF_CONFIG": "{"}, None, "TF_CONFIG", "warning", "cannot read"),
        ({"TF_CONFIG": "[1]"}, None, "TF_CONFIG", "warning", "cannot read"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'},
            None,
            "TF_CONFIG",
            "note",
            "2 workers: a:1, b:1",
        ),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, "CUDA_VISIBLE_DEVICES", "note", "hides"),
        ({"XLA_FLAGS": "--x"}, None, "XLA_FLAGS", "note", "--x"),
    ],
)
def test_reads_what_decides_backend_and_cluster(
    tmp_path, monkeypatch, variables, keras_json, name, state, told
):
    for known in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    if keras_json is not None:
        (tmp_path / "keras.json").write_text(keras_json)
    finding = by_name(diagnosis.examine_environment())[name]
    assert finding.state == state
    assert told in finding.told
    assert bool(finding.mend) == (state == "warning") or state == "note"


def test_combinations_of_each_kind_of_machine(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)
    one = by_name(diagnosis.examine_combinations("tensorflow", {"CPU": 1}))
    assert one["auto"].told == "takes one_device here"
    assert one["mirrored (1 CPU), XLA, several steps per dispatch"].state == "ok"
    assert one["tpu"].told == "no TPU is seen"
    two = by_name(diagnosis.examine_combinations("tensorflow", {"CPU": 1, "GPU": 2}))
    assert two["auto"].told == "takes mirrored here"
    assert two["mirrored (2 GPU), XLA, one step per dispatch"].mend
    jax = diagnosis.examine_combinations("jax", {"CPU": 1})
    assert "KERAS_BACKEND=tensorflow" in jax[-1].mend
    monkeypatch.setenv("TPU_NAME", "pod")
    tpu = by_name(diagnosis.examine_combinations("tensorflow", {"CPU": 1}))["tpu"]
    assert tpu.told == "TPU_NAME=pod, not tried"
    for number, told in ((1, "works as mirrored"), (2, "works in str_keras.train")):
        cluster = {"cluster": {"worker": ["a:1", "b:1"][:number]}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        found = by_name(diagnosis.examine_combinations("tensorflow", {"CPU": 1}))
        workers = found["multi_worker_mirrored"]
        assert workers.state == "ok" and told in workers.told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("xla", "steps", "accumulated"),
    [(False, 1, None), (True, 1, None), (False, 2, None), (False, 1, 2)],
)
def test_combinations_are_as_fit_has_them(mirrored, xla, steps, accumulated):
    """What it says of two replicas, by trying it."""
    with mirrored.scope():
        model = stk.sparsify(
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        )
        optimizer = stk.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
        model.compile(optimizer, "mse", jit_compile=xla, steps_per_execution=steps)
    mend = combinations.explain(2, xla, steps > 1, accumulated is not None)
    assert not combinations.explain(1, xla, steps > 1, accumulated is not None)
    inputs, targets = np.ones((16, 4), "float32"), np.zeros((16, 2), "float32")
    if not mend:
        assert len(model.fit(inputs, targets, batch_size=4, verbose=0).history) == 1
        return
    with pytest.raises((RuntimeError, tf.errors.InvalidArgumentError)):
        model.fit(inputs, targets, batch_size=4, verbose=0)
