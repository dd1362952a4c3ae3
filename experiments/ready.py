"""Networks of keras.applications: what XNNPACK's sparse kernels take of them.

`python -m experiments.ready` (a quarter of an hour; wants `tools/setup_runtimes.sh`).
Each has random weights, batch norms with the statistics of random images, and 90 % of
zeros in what `policy="latency"` prunes: 1x1 convolutions. It is checked as it is, then
after `stk.make_sparse_ready`, and both files run on emulated x86 without AVX and in the
browser, against Keras. Accuracy means nothing here.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import shlex
import sys
import tempfile
import warnings
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "results"
SEED = 0
SIZE = 224
SPARSITY = 0.9
STATISTICS = 8  # images that batch norms get their statistics of
NETS = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ResNet50",
)
EMULATED, BROWSER = "x86_no_avx", "wasm"
# Largest difference to Keras of right outputs, as of the export of float32.
TOLERANCE = 1e-4


def build(name: str) -> tuple[Any, Any]:
    """A pruned network of random weights, and images `[8, 224, 224, 3]` for it.

    Its outputs are logits: behind a softmax over 1,000 classes wrong ones look right.
    """
    import keras
    import numpy as np

    import str_keras as stk
    from experiments.files import set_statistics

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, name)(
        weights=None, classifier_activation=None, input_shape=(SIZE, SIZE, 3)
    )
    takes_pixels = any(isinstance(x, keras.layers.Rescaling) for x in model.layers)
    low, high = (0, 255) if takes_pixels else (-1, 1)
    random = np.random.default_rng(SEED)
    images = random.uniform(low, high, (STATISTICS, SIZE, SIZE, 3)).astype("float32")
    pruned = stk.budget.uniform(model, SPARSITY, policy="latency").apply(model)
    set_statistics(pruned, images)
    return pruned, images


def measure(name: str, directory: pathlib.Path) -> dict[str, Any]:
    """Checks a network before and after, and runs both files.

    Args:
        name: Of `NETS`.
        directory: Where the files go.
    """
    import numpy as np

    import str_keras as stk
    from str_keras.startup import stderr_aside

    with stderr_aside():
        model, images = build(name)
        report = stk.sparse_ready_report(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the report says more
            ready = stk.make_sparse_ready(model)
        expected = np.asarray(model(images, training=False))
        outputs = np.asarray(ready(images, training=False))
        files = {"as_it_is": model, "ready": ready}
        for kind, net in files.items():
            (directory / f"{kind}.tflite").write_bytes(_file(net, images))
        runs = _run(directory, images[:1], expected[:1])
    found = {kind: stk.export.check_sparse(net) for kind, net in files.items()}
    weights = stk.summary(model).kernels
    return {
        "layers": len(model.layers),
        "weights": weights.params,
        "sparsity": weights.sparsity,
        "as_it_is": _told(found["as_it_is"], weights.params),
        "is_ready": report.ready,
        "rewritten": _counts(f"{c.kind} {c.what}" for c in report.changes),
        "obstacles": _counts(f"{o.kind}: {o.reason}" for o in report.obstacles),
        "difference": _difference(outputs, expected),
        "ready": _told(found["ready"], weights.params),
        "runs": runs,
    }


def _file(model: Any, images: Any) -> bytes:
    """As `stk.export.tflite(sparse=True)`, also what that would refuse to write."""
    from str_keras.export.kinds import Kind
    from str_keras.export.writing import TFLiteWriter

    writer = TFLiteWriter(model, images=images)
    return writer.encode(Kind("float32", sparse=True)).content


def _told(found: Any, weights: int) -> dict[str, Any]:
    """Verdicts, the rules that fail, and how much of the network runs sparse."""
    sparse = [cluster for cluster in found.clusters if cluster.sparse]
    params = sum(cluster.params for cluster in sparse)
    verdict = found.verdicts[EMULATED]
    return {
        "verdicts": {target: v.kind for target, v in found.verdicts.items()},
        "decided_by": {"rule": verdict.rule, "why": verdict.why, "mend": verdict.mend},
        "failures": [
            {"node": n.name, "rule": n.rule, "reason": n.reason} for n in found.failures
        ],
        "sparse_weights": params / weights,
        "zeros_in_them": sum(c.zeros for c in sparse) / params if params else None,
    }


def _counts(texts: Any) -> dict[str, int]:
    return dict(collections.Counter(texts).most_common())


def _difference(outputs: Any, expected: Any) -> float:
    """max|difference| / max|y|."""
    import numpy as np

    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def _run(directory: pathlib.Path, images: Any, expected: Any) -> dict[str, Any]:
    """What comes of both files: by runtime, then by file.

    Where sparse kernels are on, instructions are counted, also of a twin with its zeros
    stored.
    """
    from str_keras.export import runtimes

    paths = [directory / f"{kind}.tflite" for kind in ("as_it_is", "ready")]
    if paths[0].read_bytes() == paths[1].read_bytes():
        del paths[0]  # nothing was rewritten
    found: dict[str, Any] = {}
    for name in (EMULATED, BROWSER):
        outcomes = runtimes.run(name, paths, images, profile=name == EMULATED)
        found[name] = {o.file.stem: _shows(o, expected) for o in outcomes}
        found[name].setdefault("as_it_is", found[name]["ready"])
    if found[EMULATED]["ready"]["sparse_kernels"]:
        twin = runtimes.dense_twin(paths[-1].read_bytes())
        assert twin is not None  # else no kernel is stored sparse
        paths = [directory / "dense_twin.tflite", paths[-1]]
        paths[0].write_bytes(twin)
        counted = runtimes.run(EMULATED, paths, images, count=True)
        found["instructions"] = {o.file.stem: o.instructions for o in counted}
    return found


def _shows(outcome: Any, expected: Any) -> dict[str, Any]:
    outputs = outcome.outputs
    return {
        "error": outcome.error,
        "difference": None if outputs is None else _difference(outputs, expected),
        "sparse_kernels": outcome.sparse_kernels,
    }


def seen(run: dict[str, Any]) -> str:
    """What a run shows, as a verdict says it; "right" where kernels are unknown."""
    if run["error"] or run["difference"] is None:
        return "refused"
    if not run["difference"] <= TOLERANCE:
        return "wrong"
    kinds = {True: "sparse", False: "dense", None: "right"}
    return kinds[run["sparse_kernels"]]


def check_verdicts(name: str, net: dict[str, Any]) -> None:
    """Compares what was told of a network's files with what was seen.

    Raises:
        RuntimeError: if a verdict is not what the run showed.
    """
    for target in (EMULATED, BROWSER):
        for kind in ("as_it_is", "ready"):
            told = net[kind]["verdicts"][target]
            shown = seen(net["runs"][target][kind])
            right = told in ("sparse", "dense")
            if shown != told and not (shown == "right" and right):
                raise RuntimeError(
                    f"a verdict of check_sparse is not what the run showed. Received: "
                    f"{name}, {kind}, {target}: told={told!r}, shown={shown!r}"
                )


def table(nets: dict[str, Any]) -> str:
    """The table of what was found, in docs/device.md."""
    from experiments import markdown

    columns = [
        "keras.applications",
        "as it is",
        "`make_sparse_ready`",
        "moves outputs by",
        "weights on sparse kernels",
        "x86 without AVX",
        "browser",
        "instructions, dense / sparse",
    ]
    rows = [
        [
            name,
            _verdict(net["as_it_is"]),
            _rewriting(net),
            _power(net["difference"]),
            f"{100 * net['ready']['sparse_weights']:.0f} %",
            _shown(net["runs"][EMULATED]["ready"]),
            _shown(net["runs"][BROWSER]["ready"]),
            _ratio(net["runs"].get("instructions")),
        ]
        for name, net in nets.items()
    ]
    return markdown.table(columns, rows, left=(0, 1, 2, 5, 6))


def _verdict(found: dict[str, Any]) -> str:
    """The verdict where sparse kernels are, and the first node that breaks a rule."""
    kind = found["verdicts"][EMULATED]
    if kind == "sparse":
        return kind
    first, *others = found["failures"]
    more = f", and {len(others)} more" if others else ""
    return f"{kind}: {first['node']}: {first['reason']}{more}"


def _rewriting(net: dict[str, Any]) -> str:
    """What was rewritten, or else what stands in the way, with how often."""
    told: dict[str, int] = collections.Counter()
    for what, n in (net["rewritten"] if net["is_ready"] else net["obstacles"]).items():
        told[what.partition(";")[0]] += n
    listed = "; ".join(f"{w} ({n})" if n > 1 else w for w, n in told.items())
    return f"{'ready' if net['is_ready'] else 'cannot'}: {listed}"


def _power(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"


def _shown(run: dict[str, Any]) -> str:
    moved = run["difference"]
    return seen(run) if moved is None else f"{seen(run)}, {_power(moved)}"


def _ratio(counted: dict[str, int] | None) -> str:
    return f"{counted['dense_twin'] / counted['ready']:.2f}" if counted else ""


def record(nets: dict[str, Any]) -> dict[str, Any]:
    """The results with what they were made by."""
    import importlib.metadata

    from experiments import markdown
    from str_keras.run_directory import git_revision, versions

    runtime = {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")}
    return {
        "command": shlex.join(["python", "-m", "experiments.ready", *sys.argv[1:]]),
        "seed": SEED,
        "sparsity": SPARSITY,
        "versions": {**versions(), **runtime},
        "git_revision": git_revision(ignore=markdown.WRITTEN),
        "nets": nets,
    }


def main() -> None:
    """Measures, prints and records."""
    from experiments import markdown
    from str_keras.files import write_text

    nets = {}
    for name in FLAGS.net or NETS:
        with tempfile.TemporaryDirectory() as directory:
            nets[name] = measure(name, pathlib.Path(directory))
        print(f"\n{name}: {json.dumps(nets[name], indent=1)}", flush=True)
        check_verdicts(name, nets[name])
    results = pathlib.Path(FLAGS.results)
    write_text(results / "ready.json", json.dumps(record(nets), indent=1) + "\n")
    if FLAGS.readme:
        markdown.fill(FLAGS.readme, "ready", table(nets))
    print(f"\n{table(nets)}")


if __name__ == "__main__":
    flags.DEFINE_multi_enum("net", [], NETS, "Only these; again for several.")
    flags.DEFINE_string("results", str(RESULTS), "Folder of ready.json.")
    flags.DEFINE_string("readme", "", "A file with the table's markers to fill.")
    cli.run(main)
