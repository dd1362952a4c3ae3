"""What an import brings in, which way imports run, and which names are public."""

import ast
import pathlib
import subprocess
import sys

import pytest

import str_keras as stk

PACKAGE = pathlib.Path(stk.__file__).parent
PUBLIC = {
    "LeveledModel",
    "PrunedModel",
    "SoftThreshold",
    "SparseModel",
    "SparsityRamp",
    "Target",
    "budget",
    "channels",
    "copy_weights",
    "data",
    "export",
    "fold_rank",
    "forecast",
    "freeze_mask",
    "layers",
    "recalibrate",
    "make_sparse_ready",
    "models",
    "optimizers",
    "prune",
    "register_backward",
    "register_g",
    "register_operator",
    "register_threshold",
    "schedules",
    "shrink",
    "soft_threshold",
    "sparse_ready_report",
    "sparsify",
    "sparsify_channels",
    "strip",
    "summary",
    "torch_checkpoints",
    "tune",
}
CORE = {
    "str_keras",
    *(
        f"str_keras.{name}"
        for name in (
            "budget",
            "budget.allocation",
            "budget.counting",
            "budget.file_graph",
            "budget.file_size",
            "budget.published",
            "budget.rates",
            "budget.reading",
            "budget.table",
            "budget.uses",
            "channels",
            "channels.batch_norm",
            "channels.flow",
            "channels.report",
            "channels.shrinking",
            "channels.steps",
            "files",
            "folding",
            "forecasting",
            "freezing",
            "internals",
            "kernels",
            "layers",
            "learned",
            "leveled",
            "logits",
            "model",
            "operators",
            "optimizers",
            "policies",
            "presets",
            "pruning",
            "ranking",
            "ready",
            "ready.aligning",
            "ready.forms",
            "ready.graph",
            "ready.heads",
            "ready.kinds",
            "ready.making",
            "ready.norms",
            "ready.placing",
            "ready.report",
            "ready.rules",
            "ready.tracing",
            "ready.turning",
            "ready.windows",
            "recalibration",
            "recurrent",
            "registries",
            "schedules",
            "selection",
            "solving",
            "sources",
            "sparsifying",
            "solving",
            "steering",
            "stripping",
            "substitution",
            "tables",
            "targets",
            "thresholds",
            "tuning",
        )
    ),
}
# Rooms in the order of imports: each may import of those before it.
ROOMS = [
    "registries",
    "thresholds",
    "operators",
    "files",
    "processors",
    "tables",
    "startup",
    "internals",
    "cli",
    "substitution",
    "logits",
    "recurrent",
    "policies",
    "kernels",
    "selection",
    "layers",
    "targets",
    "model",
    "folding",
    "stripping",
    "freezing",
    "recalibration",
    "budget",
    "ranking",
    "solving",
    "steering",
    "sources",
    "learned",
    "leveled",
    "pruning",
    "presets",
    "sparsifying",
    "channels",
    "ready",
    "schedules",
    "optimizers",
    "forecasting",
    "tuning",
    "models",
    "data",
    "distribution",
    "methods",
    "config",
    "config_files",
    "building",
    "checkpoint",
    "torch_checkpoints",
    "locking",
    "run_directory",
    "monitoring",
    "alarms",
    "export",
    "training",
    "evaluation",
    "train",
    "evaluate",
    "reporting",
    "report",
    "diagnosis",
    "doctor",
]


def test_public_names():
    assert set(stk.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(stk, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'quantize'"):
        stk.quantize  # noqa: B018


@pytest.mark.slow
def test_import_brings_in_keras_and_the_core_alone():
    """On another backend, where Keras itself does not bring TensorFlow."""
    code = (
        "import sys, keras; before = set(sys.modules); import str_keras\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    brought = set(done.stdout.split())
    ours = {name for name in brought if name.split(".")[0] == "str_keras"}
    assert ours == CORE
    others = {name.split(".")[0] for name in brought - ours}
    heavy = {
        "absl",
        "ai_edge_litert",
        "jinja2",
        "matplotlib",
        "rich",
        "tensorboard",
        "tensorflow_datasets",
        "tensorflow_model_optimization",
        "tf_keras",
        "tqdm",
    }
    assert not others & heavy


@pytest.mark.slow
def test_the_core_works_where_tensorflow_is_not_installed():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import keras, numpy as np, str_keras as stk\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])\n"
        "sparse = stk.sparsify(model, s_init=-1.0)\n"
        "sparse.compile(stk.optimizers.SGD(0.1, weight_decay=1e-3), 'mse')\n"
        "sparse.fit(np.ones((8, 4)), np.zeros((8, 3)), verbose=0)\n"
        "print(stk.summary(stk.strip(sparse)).kernels.params)\n"
        "stk.models.MobileNetV1(0.25, (32, 32, 1), 10, stem='small')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**__import__("os").environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "12"


def imports_of(path):
    """Modules of ours that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "str_keras":
                yield from (f"str_keras.{alias.name}" for alias in node.names)
            elif node.module.startswith("str_keras."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("str_keras."))


def test_imports_run_one_way():
    files = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in files}
    assert rooms == set(ROOMS)
    for path in files:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imports_of(path):
            other = module.split(".")[1]
            if other in ROOMS and other != room:
                assert ROOMS.index(other) < ROOMS.index(room), f"{path}: {module}"


def test_private_names_of_keras_stand_in_one_file():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "internals.py":
            assert "keras.src" not in path.read_text(), path
