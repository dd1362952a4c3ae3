"""The nets and files that `experiments.latency` times: MobileNetV1 in many forms."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from experiments.files import set_statistics

BUDGETS = pathlib.Path(__file__).parent / "results" / "budgets"
SEED = 0
_INPUTS = 8  # whose statistics batch norms get, and on which files are verified
# Rounding of random weights, 27 layers deep, at the extreme of 1,000 outputs.
_TOLERANCES = {"float32": 1e-3, "float16": 0.2, "int8_weights": 0.2}


@dataclasses.dataclass(frozen=True)
class Net:
    """One file: a net, how it was pruned, how it is stored.

    Args:
        name: What tables and files call it.
        sparsity: Uniform share of zeros.
        budget: Instead, a run's table in `BUDGETS`, without .csv, learned by STR.
        like: Instead, the width whose dense net has as many MACs.
        policy: Of `stk.budget.uniform`.
        weights: Of `stk.export.tflite`.
        stored: "sparse", "dense", or "twin": the sparse file with its zeros stored.
        alpha: Width.
        size: Pixels a side.
        classes: Number of logits.
        stem: Filters of the first convolution; 0 leaves them.
        relu6: Whether activations end at 6.
        block: Zeros of 1x1 convolutions come in groups of so many filters.
    """

    name: str
    sparsity: float = 0.0
    budget: str = ""
    like: float = 0.0
    policy: str | None = None
    weights: str = "float32"
    stored: str = "sparse"
    alpha: float = 1.0
    size: int = 224
    classes: int = 1000
    stem: int = 0
    relu6: bool = False
    block: int = 1

    def twin(self) -> Net:
        """The same net, its zeros stored."""
        return dataclasses.replace(self, name=f"{self.name}, dense", stored="twin")


@dataclasses.dataclass(frozen=True)
class Scale:
    """Smaller nets instead, to try the program out.

    Args:
        width: Factor of every alpha.
        size: Factor of every image size.
    """

    width: float = 1.0
    size: float = 1.0


def build(net: Net, scale: Scale) -> Any:
    """The pruned Keras model of random weights, with statistics of random inputs."""
    import keras
    import numpy as np

    import str_keras as stk

    keras.utils.set_random_seed(SEED)
    size = int(net.size * scale.size)
    model: Any = stk.models.MobileNetV1(
        net.alpha * scale.width, (size, size, 3), net.classes
    )
    if net.stem or net.relu6:
        model = _changed(model, net)
    if net.block > 1:
        model = _prune_blocks(model, net.sparsity, net.block)
    elif net.budget:
        model = stk.budget.read(BUDGETS / f"{net.budget}.csv").apply(model)
    elif net.like:
        shape = model.input_shape[1:]
        alpha = net.like * scale.width
        narrow = stk.models.MobileNetV1(alpha, shape, net.classes)
        share = macs(narrow)["macs"] / macs(model)["macs"]
        model = stk.budget.uniform(model, 1 - share).apply(model)
    elif net.sparsity:
        budget = stk.budget.uniform(model, net.sparsity, policy=net.policy)
        model = budget.apply(model)
    set_statistics(model, _images(model, np))
    return model


def _images(model: Any, np: Any) -> Any:
    shape = (_INPUTS, *model.input_shape[1:])
    return np.random.default_rng(SEED).standard_normal(shape, dtype="float32")


def _changed(model: Any, net: Net) -> Any:
    """A copy with another first convolution or activation, and new weights."""
    import keras

    def change(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name == "conv1" and net.stem:
            config["filters"] = net.stem
        if isinstance(layer, keras.layers.ReLU) and net.relu6:
            config["max_value"] = 6.0
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=change)


def _prune_blocks(model: Any, sparsity: float, block: int) -> Any:
    """Prunes 1x1 convolutions in groups of filters, all other kernels as uniform."""
    import numpy as np

    import str_keras as stk

    pruned = stk.budget.uniform(model, sparsity).apply(model)
    for layer, source in zip(pruned.layers, model.layers, strict=True):
        if getattr(layer, "kernel_size", None) != (1, 1):
            continue
        kernel = np.array(source.kernel)
        groups = kernel.reshape(-1, block)  # the last axis counts filters
        norms = np.linalg.norm(groups, axis=1)
        kept = np.argsort(-norms)[: round((1 - sparsity) * len(norms))]
        mask = np.zeros_like(groups)
        mask[kept] = 1
        layer.kernel.assign((groups * mask).reshape(kernel.shape))
    return pruned


def macs(model: Any) -> dict[str, int]:
    """MACs of a model.

    Returns:
        "macs"; "nonzero", those with non-zero weights; "run", those that are left where
        sparse kernels skip the zeros of 1x1 convolutions and nothing else's; and
        "KIND" and "KIND_run" for the first convolution, the depthwise, the 1x1 and
        the classifier.
    """
    import str_keras as stk

    found: dict[str, int] = {"macs": 0, "nonzero": 0, "run": 0}
    for row in stk.summary(model).rows:
        if row.macs is None or row.sparse_macs is None:
            raise ValueError(f"MACs are not known. Received: {row.path}")
        kind = _kind(row)
        run = row.sparse_macs if kind == "1x1" else row.macs
        for name, number in (
            ("macs", row.macs),
            ("nonzero", row.sparse_macs),
            ("run", run),
            (kind, row.macs),
            (f"{kind}_run", run),
        ):
            found[name] = found.get(name, 0) + number
    return found


def _kind(row: Any) -> str:
    if row.kind == "DepthwiseConv2D":
        return "depthwise"
    if row.kind == "Dense":
        return "classifier"
    return "1x1" if row.shape[:2] == (1, 1) else "first"


def write(net: Net, path: pathlib.Path, scale: Scale) -> dict[str, Any]:
    """Writes the file of a net, verified against Keras, or its twin.

    Returns:
        Its "bytes", "sparsity", MACs as of `macs`, and "runs": the kernels that each
        target has for it.
    """
    import numpy as np

    import str_keras as stk
    from str_keras.export.runtimes.twin import dense_twin
    from str_keras.startup import stderr_aside

    model = build(net, scale)
    with stderr_aside():
        stk.export.tflite(
            model,
            path,
            weights=net.weights,
            sparse=net.stored != "dense",
            images=_images(model, np),
            tolerance=_TOLERANCES[net.weights],
            overwrite=True,
        )
    if net.stored == "twin":
        twin = dense_twin(path.read_bytes())
        if twin is None:
            raise ValueError(f"no kernel is stored sparse. Received: {net.name}")
        path.write_bytes(twin)
    verdicts = stk.export.check_sparse(path).verdicts
    return {
        "bytes": path.stat().st_size,
        "sparsity": stk.summary(model).kernels.sparsity,
        "macs": macs(model),
        "runs": {target: verdict.kind for target, verdict in verdicts.items()},
    }
