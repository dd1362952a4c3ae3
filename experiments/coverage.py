"""Sparsifies, trains, saves, loads and strips whole architectures, and tells what held.

`python -m experiments.coverage` does so with every architecture of keras.applications
and a few backbones of KerasHub, all with random weights and on the smallest input that
they take; each in a process of its own. One step of training moves every threshold;
then the model is saved and loaded, which has to keep all weights and outputs, and
stripped, which has to keep outputs and leave nothing of str_keras: bit for bit. The
table, `coverage.csv`, tells how many layers got thresholds and why others did not, and
`docs/coverage.md` the same in short. Rows that are there are left out, so that it goes
on where it was stopped.

KerasHub is no dependency: `make hub` installs it into .hub, where this program finds
it; without it its backbones are left out, and named.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
HUB = ROOT / ".hub"
"""Where `make hub` installs KerasHub."""

COLUMNS = (
    *("name", "source", "input", "params", "wrapped", "kernels", "passed_through"),
    *("reasons", "sparsity", "outcome", "versions", "git_revision", "command"),
)
EQUAL = "equal"
# The first that an architecture takes; what it refuses, it refuses by a ValueError.
SIZES = (32, 64, 71, 75, 96, 128, 224, 331)
S_INIT = -4.0  # sigmoid(-4) = 0.018: prunes a part of every kernel
LEARNING_RATE = 1e-4
# Batch normalization over two examples of one pixel has gradients of 1e7 in a deep net
# of random weights, dense or sparse: one step with them, and outputs are not finite.
CLIPNORM = 1.0
# Moves s by 4 times the rate: gradients, of one at most, cannot undo it by chance.
THRESHOLD_DECAY = 1.0


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string("output", str(RESULTS), "Folder for coverage.csv.")
    flags.DEFINE_string("page", str(ROOT / "docs" / "coverage.md"), "The short table.")
    flags.DEFINE_list("names", [], "Architectures to run, by commas; all if none.")
    flags.DEFINE_string("one", "", "Runs this alone and prints its row as JSON.")


def applications() -> list[str]:
    """Names of the architectures of keras.applications."""
    import keras

    found = vars(keras.applications).items()
    return sorted(
        name for name, value in found if name[0].isupper() and callable(value)
    )


def _application(name: str) -> Any:
    import keras

    create = getattr(keras.applications, name)
    for size in SIZES:
        try:
            return create(weights=None, input_shape=(size, size, 3), classes=5)
        except ValueError:
            continue
    raise ValueError(f"None of these input sizes is taken: {SIZES}. Received: {name=}")


# KerasHub's backbones, of the fewest layers that have all kinds of theirs.
BACKBONES: dict[str, dict[str, Any]] = {
    "ResNetBackbone": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_strides": [1, 2],
        "block_type": "bottleneck_block",
        "image_shape": (32, 32, 3),
    },
    "ViTBackbone": {
        "image_shape": (32, 32, 3),
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 32,
    },
    "BertBackbone": {
        "vocabulary_size": 30,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 32,
        "max_sequence_length": 8,
    },
    "GemmaBackbone": {
        "vocabulary_size": 30,
        "num_layers": 2,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 32,
        "head_dim": 4,
    },
}


def hub_environment() -> dict[str, str] | None:
    """Environment variables of a process that finds KerasHub; None: it is not there."""
    import importlib.util

    if (HUB / "keras_hub").is_dir():
        paths = [str(HUB), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return dict(os.environ) if importlib.util.find_spec("keras_hub") else None


def _backbone(name: str) -> Any:
    import keras_hub  # pyright: ignore[reportMissingImports]

    return getattr(keras_hub.models, name)(**BACKBONES[name])


def _inputs(model: Any) -> Any:
    """Two random examples of what a model takes, by the name of the input."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)

    def draw(tensor: Any) -> Any:
        shape = (2, *(n or 8 for n in tensor.shape[1:]))  # open: eight tokens
        if "float" in keras.backend.standardize_dtype(tensor.dtype):
            return rng.uniform(0, 1, shape).astype("float32")
        top = 2 if "mask" in tensor.name or "segment" in tensor.name else 30
        return rng.integers(top > 2, top, shape).astype("int32")

    return keras.tree.map_structure(draw, model.input)


@dataclasses.dataclass(frozen=True)
class Found:
    """What became of one model.

    Args:
        wrapped: Number of layers with thresholds.
        kernels: Number of kernels with thresholds.
        passed_through: Pairs of path and reason.
        sparsity: Share of zeros over kernels with thresholds, after the step.
        outcome: `EQUAL`, or what was not.
    """

    wrapped: int
    kernels: int
    passed_through: list[tuple[str, str]]
    sparsity: float
    outcome: str


def check(model: Any, folder: str | pathlib.Path) -> Found:
    """Sparsifies a model, trains a step, saves, loads, strips and compares.

    Args:
        model: A built plain model.
        folder: Where its file is written.
    """
    import keras
    import numpy as np

    import str_keras as stk

    x = _inputs(model)

    def read(tensor: Any) -> Any:
        return np.asarray(keras.ops.convert_to_numpy(tensor))

    def run(net: Any) -> list[Any]:
        return [read(y) for y in keras.tree.flatten(net(x, training=False))]

    def same(a: Iterable[Any], b: Iterable[Any]) -> bool:
        pairs = zip(a, b, strict=True)
        # What is not finite is told by itself.
        return all(np.array_equal(read(p), read(q), equal_nan=True) for p, q in pairs)

    sparse = stk.sparsify(model, s_init=S_INIT)
    before = [float(read(item.logit)) for item in sparse.thresholded]
    targets = keras.tree.map_structure(np.zeros_like, sparse(x, training=False))
    losses = keras.tree.map_structure(lambda _: "mse", targets)
    optimizer = stk.optimizers.SGD(
        LEARNING_RATE, threshold_decay=THRESHOLD_DECAY, global_clipnorm=CLIPNORM
    )
    sparse.compile(optimizer, losses, jit_compile=False)
    sparse.train_on_batch(x, targets)
    after = [float(read(item.logit)) for item in sparse.thresholded]
    path = pathlib.Path(folder) / "model.keras"
    sparse.save(path)
    loaded: Any = keras.models.load_model(path)
    plain = stk.strip(loaded)
    outputs = run(sparse)
    tests: dict[str, Callable[[], bool]] = {
        "some weight is not finite": lambda: all(
            np.isfinite(read(v)).all() for v in sparse.weights if "float" in v.dtype
        ),
        "some output is not finite": lambda: all(np.isfinite(y).all() for y in outputs),
        "a threshold stands still": lambda: all(
            a != b for a, b in zip(before, after, strict=True)
        ),
        "weights differ after loading": lambda: same(sparse.weights, loaded.weights),
        "outputs differ after loading": lambda: same(outputs, run(loaded)),
        "outputs differ after stripping": lambda: same(outputs, run(plain)),
        "something of str_keras is left": lambda: "str_keras" not in plain.to_json(),
    }
    wrong = [told for told, holds in tests.items() if not holds()]
    paths = [item.kernel.path for item in sparse.thresholded]
    return Found(
        wrapped=len({id(item.kernel.layer) for item in sparse.thresholded}),
        kernels=len(paths),
        passed_through=list(sparse.passed_through),
        sparsity=float(stk.summary(plain).kernels.sparsity or 0.0),
        outcome="; ".join(wrong) or EQUAL,
    )


def _reasons(pairs: list[tuple[str, str]]) -> str:
    """Each reason once, with the number of its layers and the first one."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in pairs:
        by_reason.setdefault(reason, []).append(path)
    return "; ".join(
        f"{len(paths)} ({paths[0]}{', ...' if len(paths) > 1 else ''}): {reason}"
        for reason, paths in by_reason.items()
    )


def _one(name: str) -> dict[str, Any]:
    import keras

    keras.utils.set_random_seed(0)
    hub = name in BACKBONES
    model = _backbone(name) if hub else _application(name)
    sizes = [tensor.shape[1:] for tensor in keras.tree.flatten(model.input)]
    with tempfile.TemporaryDirectory() as folder:
        found = check(model, folder)
    return {
        "name": name,
        "source": _source(hub),
        "input": " ".join("x".join(str(n or "?") for n in size) for size in sizes),
        "params": model.count_params(),
        "wrapped": found.wrapped,
        "kernels": found.kernels,
        "passed_through": len(found.passed_through),
        "reasons": _reasons(found.passed_through),
        "sparsity": round(found.sparsity, 4),
        "outcome": found.outcome,
    }


def _source(hub: bool) -> str:
    if not hub:
        return "keras.applications"
    import keras_hub  # pyright: ignore[reportMissingImports]

    return f"keras-hub {keras_hub.__version__}"


def _read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def _run_apart(name: str, env: dict[str, str]) -> dict[str, Any]:
    """A row, from a process of its own: what it took of memory is given back."""
    command = [sys.executable, "-m", "experiments.coverage", f"--one={name}"]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        failed = dict.fromkeys(COLUMNS, "")
        return failed | {"name": name, "outcome": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


PAGE = """# Architectures that were sparsified whole

`python -m experiments.coverage` takes each through `sparsify`, one step of training,
`save`, `load_model` and `strip`, with random weights and the smallest input that it
takes. *equal*: all weights and outputs after loading, and all outputs after stripping,
are the same bit for bit, every threshold has moved, and the stripped model has nothing
of str_keras in it. Layers *passed through* have weights of two axes or more, and no
thresholds; the others without (pooling, batch normalization) are not counted.
"""

UNEQUAL = """
Rows that are not *equal* are of a step whose gradients were not clipped. Batch
normalization over two examples of one pixel made them as large as 5e7 in a dense
ResNet50, whose outputs were not finite after that step either. Outputs of NaN then
counted as different from themselves, and gradients of that size may meet the decay of a
threshold, which stands still. Clipped, as the program does it now, all that were run
again are equal; the command goes on with the rest.
"""


def page(rows: list[dict[str, Any]]) -> str:
    """The short table as Markdown."""
    from experiments.markdown import table

    heads = ("name", "of", "input", "layers wrapped", "passed through", "outcome")
    body = []
    for row in rows:
        reasons = row["reasons"]
        passed = f"{row['passed_through']}: {reasons}" if reasons else "none"
        names = (row["name"], row["source"], row["input"], str(row["wrapped"]))
        body.append([*names, passed, row["outcome"]])
    made = {(row["versions"], row["git_revision"]) for row in rows}
    told = "".join(f"\nMade with {v}, at revision {r}.\n" for v, r in sorted(made))
    if any(row["outcome"] != EQUAL for row in rows):
        told += UNEQUAL
    return f"{PAGE}{told}\n{table(heads, body, left=(0, 1, 2, 4, 5))}\n"


def main() -> None:
    """Runs what is missing in the table, one by one, and writes table and page."""
    if FLAGS.one:
        print(json.dumps(_one(FLAGS.one)))
        return
    from experiments import records
    from str_keras.files import write_text
    from str_keras.run_directory import git_revision

    known = [*applications(), *BACKBONES]
    unknown = sorted(set(FLAGS.names) - set(known))
    if unknown:
        raise ValueError(f"--names are of {known}. Received: {unknown}")
    path = pathlib.Path(FLAGS.output) / "coverage.csv"
    rows = _read(path)
    # Table and page change with every row.
    revision = git_revision(ignore=["experiments/results", "docs/coverage.md"]) or ""
    versions = records.environment(None)["versions"]
    where = {"versions": versions, "git_revision": revision}
    command = shlex.join(["python", "-m", "experiments.coverage", *sys.argv[1:]])
    hub = hub_environment()
    for name in FLAGS.names or known:
        env = hub if name in BACKBONES else dict(os.environ)
        if env is None:
            print(f"{name}: left out, `make hub` installs KerasHub", flush=True)
            continue
        if rows.get(name, {}).get("outcome") == EQUAL:
            continue
        row = _run_apart(name, env) | where | {"command": command}
        rows[name] = row
        ordered = [rows[n] for n in known if n in rows]
        records.write_csv(path, COLUMNS, ordered)
        write_text(pathlib.Path(FLAGS.page), page(ordered))
        print(f"{name}: {row['outcome']}", flush=True)
    wrong = [name for name, row in rows.items() if row["outcome"] != EQUAL]
    if wrong:
        raise ValueError(f"Not all are equal: see {path}. Received: {wrong}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
