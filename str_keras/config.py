"""The configuration of a training run: one class, from which flags and files follow."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

from str_keras.distribution import STRATEGIES
from str_keras.methods import (
    AT_BUDGET,
    AT_RATE,
    METHODS,
    OF_LEARNED,
    ONLY_FOR,
)
from str_keras.operators import get_backward, get_operator
from str_keras.policies import POLICIES
from str_keras.schedules import SCHEDULES
from str_keras.sparsifying import PRESETS, find_source, make_target
from str_keras.targets import Target

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


_WITHOUT_SPARSITY = (
    "does not take --sparsity: name the overall one by --target_sparsity (or let STR "
    "learn it, led by --threshold_decay); a budget has it, and a dense net has none"
)


def _option(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. The help of each field is that of its flag.

    Raises:
        ValueError: if a value is out of its range or not among its choices.
    """

    method: str = _option(
        "str", "; ".join(f"{name}: {help}" for name, help in METHODS.items()) + "."
    )
    architecture: str = _option(
        "mobilenetv1", "resnet18, resnet34, resnet50, resnet101 or mobilenetv1."
    )
    alpha: float = _option(1.0, "Width multiplier of mobilenetv1, in (0, 1].")
    stem: str = _option(
        "auto",
        "First layers: imagenet, small (stride 1, for 64 pixels or less), or auto: "
        "by the size of the images.",
    )
    weights: str = _option(
        "", "A .keras or .weights.h5 file of a dense net to start from."
    )
    dataset: str = _option(
        "fashion_mnist_5k",
        "fashion_mnist_5k (in the package, needs no network), fashion_mnist, "
        "folder:PATH, or a name of TensorFlow Datasets (tfds:NAME, imagenet2012).",
    )
    data_dir: str = _option("", "Where the data set lies; TFDS' own default if empty.")
    image_size: int = _option(0, "Height and width in pixels; 0: the data set's own.")
    channels: int = _option(
        0, "Channels of the net's input: 3 shows gray images as color; 0: as stored."
    )
    augment: str = _option("auto", "auto, none, crop_flip or imagenet.")
    corrupt_images: str = _option(
        "error",
        "Images of folder:PATH that cannot be read: error stops and names one; skip "
        "decodes all of them first, and leaves those out.",
    )
    epochs: int = _option(100, "Passes over the training images.")
    batch_size: int = _option(
        256, "Images a step, over all replicas (and workers) together."
    )
    gradient_accumulation_steps: int = _option(
        1,
        "Parts that a step takes its batch in, one after the other: less memory, the "
        "same step (but for batch normalization, which sees a part at a time). One "
        "device only.",
    )
    steps_per_execution: int = _option(
        1,
        "Batches a call of the compiled program. Thresholds on a ramp, alarms and "
        "signals wait for its end. One device only.",
    )
    lr: float = _option(0.256, "Peak learning rate.")
    warmup_epochs: int = _option(5, "Epochs of linear warm-up to the peak.")
    schedule: str = _option("cosine", "cosine, constant or step, after the warm-up.")
    smooth_schedule: bool = _option(
        False, "Change the rate at every step; the paper changes it every epoch."
    )
    momentum: float = _option(0.875, "Momentum of SGD, in [0, 1).")
    nesterov: bool = _option(False, "Nesterov's momentum.")
    weight_decay: float = _option(
        2.251757813e-5, "L2 coefficient, coupled as in PyTorch; the paper's lambda."
    )
    threshold_decay: float | None = _option(
        None, "L2 coefficient of the thresholds' logits; weight_decay if not given."
    )
    decay_batch_norm: bool = _option(True, "Decay batch normalization, as the paper.")
    label_smoothing: float = _option(0.1, "Share of the label spread over all classes.")
    s_init: float | None = _option(
        None,
        "Initial logit of the thresholds; if not given, what the forecast suggests "
        "for this schedule and decay.",
    )
    g: str = _option(
        "auto",
        "From logit to threshold: sigmoid or exp; auto: sigmoid, as the paper, but exp "
        "on the way to a target, as sigmoid stays below 1 (not of autosparse).",
    )
    granularity: str = _option(
        "layer", "Thresholds per layer, filter, weight, or one for the network."
    )
    sparsity: float | None = _option(
        None,
        "Share of zeros of every layer, in (0, 1), for gmp, dnw, uniform_oneshot and "
        "erk_rigl_static. STR learns its own (--threshold_decay leads it), or is led "
        "to --target_sparsity.",
    )
    target_sparsity: float | None = _option(
        None,
        "Overall share of zeros, in (0, 1), that the training ends at: 0.95 is 95 %.",
    )
    target_macs: float | None = _option(
        None, "Or multiply-adds of the model: their number, or the share below 1."
    )
    target_bytes: float | None = _option(
        None, "Or bytes of the sparse .tflite file of float16 weights."
    )
    min_density: float = _option(
        0.0, "Share of weights that every layer keeps on the way to a target."
    )
    min_kept: int = _option(
        1, "Number of weights that every layer keeps on the way to a target."
    )
    min_per_channel: float | None = _option(
        None,
        "Weights a channel that every layer keeps on the average on the way to a "
        "target, where they take no more than half of what it leaves: narrow layers "
        "stay alive. 0: none; the method's if not given.",
    )
    mac_pressure: float = _option(
        0.0,
        "Exponent of a layer's MACs per weight in its threshold: with 0.5, say, MACs "
        "fall further at equal sparsity.",
    )
    operator: str = _option(
        "", "What a threshold does: soft, hard, feather(3); empty: the method's."
    )
    backward: str = _option(
        "",
        "What pruned weights get of the gradient: masked, straight_through, "
        "scaled(0.5), annealed(0.5); empty: the method's.",
    )
    threshold: str = _option(
        "",
        "Where thresholds come from: learned, quantile(layer), quantile(global), "
        "quantile(normalized), scheduled; empty: the method's.",
    )
    budget: str = _option(
        "",
        "Rates for budget_gmp and budget_dnw: a .csv or .json file, such as a run's "
        "budget.csv, or a published one such as resnet50@90.23.",
    )
    prune_begin: float | None = _option(
        None,
        "Share of the training at which the ramp begins; if not given, the method's.",
    )
    prune_end: float | None = _option(
        None,
        "Share of the training at which the ramp ends; the method's if not given.",
    )
    skip: tuple[str, ...] = _option(
        (), "Layers left dense: names or paths; re:PATTERN is searched in the path."
    )
    policy: str = _option(
        "",
        "What else is left dense. "
        + "; ".join(f"{name} prunes {told}" for name, told in POLICIES.items())
        + "; empty: nothing.",
    )
    seed: int = _option(0, "Of the initial weights, the order and the augmentation.")
    deterministic: bool = _option(
        False, "Deterministic operations: two runs equal bit for bit; slower on GPUs."
    )
    precision: str = _option("float32", "float32, mixed_float16 or mixed_bfloat16.")
    strategy: str = _option(
        "auto",
        f"tf.distribute: {', '.join(STRATEGIES)}. multi_worker_mirrored: every worker "
        "runs this command, with TF_CONFIG set, on one shared --run_dir.",
    )
    synchronized_batch_norm: bool = _option(
        False,
        "Batch statistics over all replicas. Off, each replica normalizes by its own "
        "(as the paper), so several replicas train another function than one.",
    )
    xla: bool = _option(False, "Compile the step with XLA (one device only).")
    evaluate_every: int = _option(1, "Epochs between evaluations; the last always.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", tuple(self.skip))
        choices: dict[str, tuple[str | int, ...]] = {
            "channels": (0, 1, 3),
            "corrupt_images": ("error", "skip"),
            "method": tuple(METHODS),
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "strategy": STRATEGIES,
            "policy": ("", *POLICIES),
            "stem": ("auto", "imagenet", "small"),
            "granularity": ("layer", "filter", "weight", "network"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                told = ", ".join(str(choice) or "empty" for choice in known)
                raise ValueError(
                    f"--{name} is one of {told}. Received: {name}={value!r}"
                )
        ranges: tuple[tuple[str, float, float], ...] = (
            ("epochs", 1, math.inf),
            ("batch_size", 1, math.inf),
            ("gradient_accumulation_steps", 1, math.inf),
            ("steps_per_execution", 1, math.inf),
            ("evaluate_every", 1, math.inf),
            ("image_size", 0, math.inf),
            ("warmup_epochs", 0, self.epochs),
            ("seed", 0, 2**31),
            ("alpha", 1e-9, 1.0),
            ("lr", 0.0, math.inf),
            ("weight_decay", 0.0, math.inf),
            ("threshold_decay", 0.0, math.inf),
            ("momentum", 0.0, 1 - 1e-9),
            ("label_smoothing", 0.0, 1 - 1e-9),
            ("s_init", -math.inf, math.inf),
            ("sparsity", 1e-9, 1 - 1e-9),
            ("prune_begin", 0.0, 1.0),
            ("prune_end", 0.0, 1.0),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if value is None:
                continue
            if not (low <= value <= high and math.isfinite(value)):
                upper = f" and at most {high:g}" if math.isfinite(high) else ""
                lower = f" of at least {low:g}" if math.isfinite(low) else ""
                raise ValueError(
                    f"--{name} must be a finite number{lower}{upper}. "
                    f"Received: {name}={value!r}"
                )

        parts = self.gradient_accumulation_steps
        if self.batch_size % parts:
            raise ValueError(
                "--batch_size is that of a step and must be a multiple of the parts it "
                f"is taken in. Received: batch_size={self.batch_size}, "
                f"gradient_accumulation_steps={parts}"
            )
        self._check_rates()
        self._check_target()

    def _check_rates(self) -> None:
        """Every method is told its rates in one way only."""
        given = self.sparsity is not None
        wants = self.method in AT_RATE and self.target is None
        if given and self.target is not None:
            raise ValueError(
                "--sparsity is the rate of every layer, a target that of the whole: "
                "give one of them. "
                f"Received: sparsity={self.sparsity}, target={self.target}"
            )
        if wants != given:
            say = "wants --sparsity, the share of zeros" if wants else _WITHOUT_SPARSITY
            raise ValueError(
                f"--method={self.method} {say}. Received: sparsity={self.sparsity}"
            )
        own = {"str_global": "network", "str_filter": "filter"}.get(self.method)
        if own and self.granularity not in ("layer", own):
            raise ValueError(
                f"--method={self.method} has its own: leave --granularity out. "
                f"Received: granularity={self.granularity!r}"
            )
        if self.takes_budget != bool(self.budget):
            say = "wants" if self.takes_budget else "does not take"
            raise ValueError(
                f"--method={self.method} {say} --budget, a file of rates. "
                f"Received: budget={self.budget!r}"
            )

    def _check_target(self) -> None:
        """Targets and choices go with the method, and with each other."""
        ramp_given = self.prune_begin is not None or self.prune_end is not None
        if self.is_preset:
            source, level = find_source(
                self.threshold or PRESETS[self.method].threshold
            )
            led = self.target is not None or self.sparsity is not None
            if source != "learned" and level is None and not led:
                raise ValueError(
                    f"--method={self.method} wants --target_sparsity, --target_macs or "
                    f"--target_bytes. Received: target_sparsity={self.target_sparsity}"
                )
            if source == "learned" and not led and ramp_given:
                raise ValueError(
                    "Learned thresholds have a ramp on the way to a target only: give "
                    "--target_sparsity, or leave --prune_begin and --prune_end out. "
                    f"Received: prune_begin={self.prune_begin}, "
                    f"prune_end={self.prune_end}"
                )
            for name, get in (("operator", get_operator), ("backward", get_backward)):
                if value := getattr(self, name):
                    get(value)
            chosen = self.operator or self.backward or self.threshold
            if self.sparsity is not None and chosen:
                raise ValueError(
                    "--operator, --backward and --threshold go with --target_sparsity, "
                    f"not with --sparsity. Received: sparsity={self.sparsity}, {chosen}"
                )
        elif self.target is not None:
            raise ValueError(
                f"--method={self.method} has its rates already; a target is for "
                f"{', '.join(PRESETS)}. Received: target={self.target}"
            )
        begin, end = self.ramp
        if begin > end:
            raise ValueError(
                "--prune_end is no earlier than --prune_begin. "
                f"Received: prune_begin={begin}, prune_end={end}"
            )

    @functools.cached_property
    def target(self) -> Target | None:
        """What the training ends at, or None."""
        return make_target(
            self.target_sparsity,
            self.target_macs,
            self.target_bytes,
            self.min_density,
            None if self.min_kept == 1 else self.min_kept,
            self.mac_pressure,
            self.min_per_channel,
        )

    @property
    def is_preset(self) -> bool:
        """Whether the method is one of `stk.sparsify`."""
        return self.method in PRESETS

    @property
    def ramp(self) -> tuple[float, float]:
        """Where the ramp begins and ends, as shares of the training."""
        preset = PRESETS.get(self.method, PRESETS["gmp"])
        begin = preset.ramp[0] if self.prune_begin is None else self.prune_begin
        end = preset.ramp[1] if self.prune_end is None else self.prune_end
        return begin, end

    @property
    def learns_thresholds(self) -> bool:
        """Whether the net gets learnable thresholds."""
        if not self.is_preset:
            return False
        return (self.threshold or PRESETS[self.method].threshold) == "learned"

    @property
    def has_alpha(self) -> bool:
        """Whether the net has a width multiplier."""
        return self.architecture == "mobilenetv1"

    @property
    def takes_budget(self) -> bool:
        """Whether the rates come from a budget."""
        return self.method in AT_BUDGET

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON takes them."""
        return {**dataclasses.asdict(self), "skip": list(self.skip)}


def check_used(config: TrainConfig, names: Iterable[str]) -> None:
    """Checks that settings given for one run have an effect on it.

    A recipe may hold those of other methods and nets, so that one file serves them all.

    Args:
        config: Of the run.
        names: Fields that were given for this run.

    Raises:
        ValueError: if the method, or the net, does not read one of them.
    """
    for name in names:
        methods = ONLY_FOR.get(name, (config.method,))
        used, own = config.method in methods, ""
        if name in OF_LEARNED:
            used = config.learns_thresholds
            own = f" and --threshold={config.threshold}" if config.threshold else ""
        if not used:
            raise ValueError(
                f"--{name} has no effect with --method={config.method}{own}, only with "
                f"{', '.join(methods)}: leave it out. Received: --{name}"
            )
        if name in ("prune_begin", "prune_end") and config.is_preset:
            _check_ramp(config, name)
        if name == "alpha" and not config.has_alpha:
            raise ValueError(
                "--alpha is the width of mobilenetv1 alone: leave it out. "
                f"Received: architecture={config.architecture!r}, alpha={config.alpha}"
            )


def _check_ramp(config: TrainConfig, name: str) -> None:
    source, _ = find_source(config.threshold or PRESETS[config.method].threshold)
    why = "has a course to the last step" if source == "scheduled" else ""
    if config.method == "dnw" and config.sparsity is not None:
        why = "prunes from the first step on"
    if why:
        raise ValueError(
            f"--method={config.method} {why}: leave --{name} out. "
            f"Received: {name}={getattr(config, name)}"
        )


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
