"""Run directories with made-up numbers, as str_keras.train would write them."""

import json
import math

import numpy as np

from str_keras.budget import KernelRow, Summary
from str_keras.run_directory import LAYERS, METRICS

CONFIG = {
    "method": "str",
    "architecture": "mobilenetv1",
    "alpha": 0.25,
    "stem": "auto",
    "dataset": "fashion_mnist_5k",
    "image_size": 0,
    "epochs": 12,
    "batch_size": 128,
    "lr": 0.1,
    "threshold_decay": 0.03,
    "s_init": -40.0,
    "g": "sigmoid",
    "skip": ["re:^conv1$"],
}


def mobilenet_kernels(size=32, alpha=0.25):
    """Path, type, shape and uses per weight of MobileNetV1's 28 kernels."""
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    blocks += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    channels = int(32 * alpha)
    kernels = [("conv1/kernel", "Conv2D", (3, 3, 1, channels), size**2)]
    for i, (filters, stride) in enumerate(blocks, 1):
        size = math.ceil(size / stride)
        shape = (3, 3, channels, 1)
        kernels.append(
            (f"block{i}_depthwise/kernel", "DepthwiseConv2D", shape, size**2)
        )
        shape = (1, 1, channels, int(filters * alpha))
        kernels.append((f"block{i}_pointwise/kernel", "Conv2D", shape, size**2))
        channels = shape[-1]
    return [*kernels, ("classifier/kernel", "Dense", (channels, 10), 1)]


def resnet_kernels():
    """54 kernels as in ResNet50."""
    kernels = [("conv1/kernel", "Conv2D", (7, 7, 3, 64), 112**2)]
    channels, size = 64, 56
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(depth):
            path = f"layer{stage + 1}_{block}"
            shapes = [(1, 1, channels, width), (3, 3, width, width)]
            shapes.append((1, 1, width, 4 * width))
            if not block:
                shapes.append((1, 1, channels, 4 * width))
            for name, shape in zip(
                ("conv1", "conv2", "conv3", "downsample"), shapes, strict=False
            ):
                kernels.append((f"{path}/{name}/kernel", "Conv2D", shape, size**2))
            channels = 4 * width
        size //= 2
    return [*kernels, ("classifier/kernel", "Dense", (channels, 1000), 1)]


def make_run(path, kernels=None, epochs=12, sparse=True, config=(), first=0.0, dead=()):
    """Writes a run directory as str_keras.train would, with made-up numbers.

    Thresholds rise from 1e-18 (from exactly 0, for the first layer) to about 0.1, and
    sparsity to about 95 %.
    """
    kernels = kernels or mobilenet_kernels()
    random = np.random.default_rng(0)
    settings = {**CONFIG, "epochs": epochs, **dict(config)}
    if not sparse:
        settings["method"] = "dense"
    record = {
        "config": settings,
        "command": f"python -m str_keras.train --run_dir={path.name}",
        "versions": {"python": "3.11.2", "keras": "3.15.1", "numpy": "2.4.0"},
        "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "started": "2025-01-02T03:04:05+00:00",
    }
    sizes = np.array([math.prod(shape) for _, _, shape, _ in kernels])
    final = np.clip(0.99 - 0.6 * (sizes / 400.0 + 1) ** -0.7, 0, 1)
    logs = np.linspace(-18, -1.3, epochs) if epochs > 1 else np.array([-2.0])
    metrics, layers = [",".join(METRICS)], [",".join(LAYERS)]
    for e, log in enumerate(logs, 1):
        ramp = 1 / (1 + math.exp(-(log + 3.2) * 2.5))
        parts = final * ramp if sparse else 0 * final
        nonzeros = np.round(sizes * (1 - parts)).astype(int)
        nonzeros[[kernel[0] in dead for kernel in kernels]] = 0
        overall = 1 - nonzeros.sum() / sizes.sum()
        accuracy = 0.84 - 0.5 * math.exp(-e / 2) - 0.03 * ramp * sparse
        values = [e, 32 * e, 0.1, 2 - accuracy, accuracy - 0.02, 1.9 - accuracy]
        values += [accuracy + first, overall, 10.5, 480.0]
        metrics.append(",".join(map(str, values)))
        if sparse:
            for i, (name, *_) in enumerate(kernels):
                g = 0.0 if i == 0 and e < 3 else float(10 ** random.normal(log, 0.25))
                share = 1 - int(nonzeros[i]) / int(sizes[i])
                layers.append(f"{e},{name},{share!r},{g!r}")
    rows = tuple(
        KernelRow(
            name, kind, shape, int(n), int(z), 0.1 if sparse else None, n * uses, 4 * n
        )
        for (name, kind, shape, uses), n, z in zip(
            kernels, sizes.tolist(), nonzeros.tolist(), strict=True
        )
    )
    path.mkdir()
    (path / "config.json").write_text(json.dumps(record))
    (path / "metrics.csv").write_text("\n".join(metrics) + "\n")
    (path / "layers.csv").write_text("\n".join(layers) + "\n")
    table = Summary("mobilenetv1", rows, 21888, 4 * 21888)
    table.to_csv(path / "budget.csv")
    table.to_json(path / "summary.json")
    return path
