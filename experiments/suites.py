"""The experiments as data: which nets are trained, on what, how, in which order.

A suite is a complete grid: methods x levels of sparsity x seeds on one data set and
net. Its cells stand in order of worth, so that a suite that is stopped early has whole
comparisons: three seeds of dense, then all methods level by level.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from experiments import pquant_recipes
from experiments.arrays import NUM_CLASSES, SIDE, SOURCES
from experiments.pquant_twin import METHODS as PQUANT
from experiments.recipes import RECIPES, TRIED, carry_over
from str_keras import building, config_files
from str_keras.budget import summary
from str_keras.config import TrainConfig
from str_keras.methods import AT_BUDGET

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
LEVELS = (0.90, 0.95, 0.80, 0.98, 0.99)
SEEDS = (0, 1, 2)
CALIBRATED = ("str", "str_global")
"""Methods whose decay leads them to a level."""
COMPARED = (
    *("str", "gmp", "dnw", "uniform_oneshot", "budget_gmp", "budget_dnw", "str_global"),
)
TFMOT = "tfmot"
"""`gmp` as tensorflow-model-optimization trains it: an outside check."""
TFMOT_MASKED = "tfmot_masked"
"""The same, but that pruned weights get no gradient, as in ours and as published."""
TFMOT_LEVELS = (0.90, 0.80)
"""At uniform rates a narrow net may be dead from 90 % on, and dead nets agree on
nothing."""
TARGET_LEVELS = (0.90, 0.95, 0.98, 0.80, 0.99)
LED = (
    *("str", "str_filter", "feather", "st3_sigma", "autosparse", "gmp", "lats", "st3"),
    *("str_global", "dnw"),
)
"""Presets that are led to a target, in order of worth."""
PRESSED = {"str_macs": ("str", 0.5), "str_filter_macs": ("str_filter", 0.25)}
"""Presets led to a target with thresholds that follow MACs: preset and pressure."""
CURVE = {f"str_filter_macs{p:g}": ("str_filter", p) for p in (0.5, 1.0)}
"""More of them, for the curve of accuracy against MACs at equal sparsity."""
CURVE_LEVELS = (0.90, 0.95, 0.98)
SPARED = "gmp_depthwise_dense"
"""`gmp` as for MobileNets in Zhu and Gupta 2017: the first and the depthwise kernels
stay dense, the others make up for it. Uniform rates may leave no path through a net
whose depthwise kernels have 9 weights a channel."""
SPARED_LEVELS = (0.90, 0.80)
"""From 95 % on, those kernels of the narrow net alone are more than may be left."""
_SPARED_PATHS = "^conv1|depthwise"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a suite.

    Args:
        id: Its name, and that of its files.
        config: Its configuration, not resolved.
        level: Sparsity aimed at, in [0, 1); None for dense nets.
        depends_on: Id of the cell whose budget it takes, or "".
        source: Settings of that cell: another budget makes it another run.
        limit: Images of each split that are used; None for all.
        variant: `TFMOT`, `TFMOT_MASKED`, `SPARED`, or of `PRESSED`, `CURVE` or
            `PQUANT`, as its rows are called; else "".
        knobs: What leads a method of PQuantML, by name.
    """

    id: str
    config: TrainConfig
    level: float | None = None
    depends_on: str = ""
    source: str = ""
    limit: int | None = None
    variant: str = ""
    knobs: tuple[tuple[str, Any], ...] = ()

    @property
    def method(self) -> str:
        """Its name in tables: a method of str_keras, or a variant of one."""
        return self.variant or self.config.method

    @property
    def by_tfmot(self) -> bool:
        """Whether tensorflow-model-optimization trains it."""
        return self.variant in (TFMOT, TFMOT_MASKED)

    @property
    def by_pquant(self) -> bool:
        """Whether PQuantML trains it."""
        return self.variant in PQUANT

    @property
    def settings(self) -> str:
        """What decides its result, as JSON: what the defaults do not say."""
        default = TrainConfig().to_dict()
        values = {n: v for n, v in self.config.to_dict().items() if v != default[n]}
        if self.source:
            values["budget_of"] = json.loads(self.source)
        if self.limit is not None:
            values["limit"] = self.limit
        if self.by_tfmot:
            values["by"] = self.variant
        if self.by_pquant:
            values |= {"by": self.variant, "knobs": dict(self.knobs)}
        return json.dumps(values, sort_keys=True)


@functools.cache
def _quickstart() -> dict[str, Any]:
    return config_files.read(HERE / "configs" / "quickstart.toml")


def _steps(recipe: TrainConfig) -> int:
    return SOURCES[recipe.dataset].num_train // recipe.batch_size


@dataclasses.dataclass(frozen=True)
class Grid:
    """A data set and a net, and what they change of the quickstart's recipe.

    Args:
        dataset: Key of `arrays.SOURCES`.
        architecture: Of `stk.models`.
        calibrated: Suite whose RECIPES it takes, carried over to its own steps.
        changes: Settings by name.
    """

    dataset: str
    architecture: str
    calibrated: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def recipe(self, **values: Any) -> TrainConfig:
        """The quickstart's recipe with the changes and `values`."""
        return config_files.from_dict(
            {
                **_quickstart(),
                "dataset": self.dataset,
                "architecture": self.architecture,
                **self.changes,
                **values,
            }
        )

    @functools.cached_property
    def scale(self) -> float:
        """By what the calibrated decays are multiplied for this recipe."""
        old, new = SUITES[self.calibrated][0].recipe(), self.recipe()
        return carry_over(1.0, old, _steps(old), new, _steps(new))

    def thresholds(self, method: str, level: float) -> dict[str, float]:
        """The calibrated decay, carried over to this recipe, and s_init."""
        decay, s_init = RECIPES[self.calibrated][method][level]
        decay = float(f"{decay * self.scale:.4g}")
        return {"threshold_decay": decay, "s_init": s_init}

    def name(self, method: str, level: float | None, seed: int) -> str:
        """The id of a cell."""
        percent = "" if level is None else f"-{100 * level:g}"
        return f"{self.dataset}-{self.architecture}-{method}{percent}-seed{seed}"

    def cell(self, method: str, level: float | None, seed: int) -> Cell:
        """One run of the grid."""
        values: dict[str, Any] = {"method": method, "seed": seed}
        if method not in CALIBRATED:  # what only thresholds use would be noise there
            values |= {"threshold_decay": None, "s_init": None}
        depends_on = source = ""
        if level is not None and method in CALIBRATED:
            values |= self.thresholds(method, level)
        elif method in AT_BUDGET:
            needed = self.cell("str", level, seed)
            depends_on, source = needed.id, needed.settings
            # Only a name here: the runner knows where its results are.
            values["budget"] = f"budgets/{depends_on}.csv"
        elif level is not None:
            values["sparsity"] = level
        name = self.name(method, level, seed)
        return Cell(name, self.recipe(**values), level, depends_on, source)

    @property
    def has_depthwise(self) -> bool:
        """Whether the net has depthwise kernels."""
        return self.architecture == "mobilenetv1"

    def tfmot_cell(self, level: float, seed: int, variant: str = TFMOT) -> Cell:
        """The run of `gmp` that tfmot trains; it spares depthwise kernels by itself."""
        spares = self.has_depthwise
        cell = (
            self.spared_cell(level, seed) if spares else self.cell("gmp", level, seed)
        )
        name = self.name(variant, level, seed)
        return dataclasses.replace(cell, id=name, variant=variant)

    def spared_cell(self, level: float, seed: int) -> Cell:
        """The run of `gmp` that spares depthwise kernels, at the same sparsity."""
        cell = self.cell("gmp", level, seed)
        rate = float(f"{level / self.prunable_share:.6g}")
        recipe = dataclasses.replace(
            cell.config, sparsity=rate, skip=(f"re:{_SPARED_PATHS}",)
        )
        name = self.name(SPARED, level, seed)
        return dataclasses.replace(cell, id=name, config=recipe, variant=SPARED)

    def pquant_cell(
        self, method: str, level: float | None, seed: int, knobs: pquant_recipes.Knobs
    ) -> Cell:
        """A run of PQuantML; what it trains is a dense net to us."""
        cell = self.cell("dense", None, seed)
        ending = method if level else f"{method}-{pquant_recipes.words(knobs)}"
        return dataclasses.replace(
            cell,
            id=self.name(ending, level, seed),
            level=level,
            variant=method,
            knobs=tuple(knobs.items()),
        )

    def pquant_cells(self, level: float) -> list[Cell]:
        """PQuantML's runs of a level, on the data set that they are calibrated on."""
        if SUITES[self.calibrated][0].dataset != self.dataset:
            return []
        recipes = pquant_recipes.RECIPES.get(self.calibrated, {})
        return [
            self.pquant_cell(method, level, seed, levels[level])
            for method, levels in recipes.items()
            if level in levels
            for seed in SEEDS
        ]

    def pquant_calibration(self) -> list[Cell]:
        """PQuantML's methods with many knobs, with one seed."""
        tried = pquant_recipes.TRIED[self.calibrated]
        return [
            self.pquant_cell(method, None, 0, knobs)
            for method, trials in tried.items()
            for knobs in trials
        ]

    def target_cell(self, method: str, level: float, seed: int) -> Cell:
        """The run of a preset that is led to a sparsity, by nothing but its name."""
        preset, pressure = (PRESSED | CURVE).get(method, (method, 0.0))
        recipe = self.recipe(
            method=preset,
            threshold_decay=None,
            s_init=None,
            seed=seed,
            target_sparsity=level,
            mac_pressure=pressure,
        )
        name = self.name(f"{method}-target", level, seed)
        return Cell(name, recipe, level, variant=method if pressure else "")

    def target_cells(self) -> list[Cell]:
        """All presets at equal sparsity, and beside them what others train."""
        cells = [self.cell("dense", None, seed) for seed in SEEDS]
        for level in TARGET_LEVELS:
            led = (*LED[:2], *PRESSED, *LED[2:]) if self.has_depthwise else LED
            cells += [self.target_cell(m, level, seed) for m in led for seed in SEEDS]
            # Uniform rates kill narrow depthwise nets from 90 % on: see `SPARED`.
            spares = self.has_depthwise and level in SPARED_LEVELS
            if spares:
                cells += [self.spared_cell(level, seed) for seed in SEEDS]
            if spares or not self.has_depthwise:
                cells += [self.tfmot_cell(level, seed) for seed in SEEDS]
            cells += self.pquant_cells(level)
        if self.has_depthwise:
            keys = itertools.product(CURVE_LEVELS, CURVE, SEEDS)
            cells += [self.target_cell(m, level, seed) for level, m, seed in keys]
        return cells

    @functools.cached_property
    def prunable_share(self) -> float:
        """Share of the weights that is not in the first or in depthwise kernels."""
        recipe = self.recipe(method="dense")
        recipe = building.resolve(recipe, SIDE, _steps(recipe))
        shape = SIDE, SIDE, len(SOURCES[self.dataset].mean)
        counted = summary(building.create_dense(recipe, shape, NUM_CLASSES))
        spared = sum(r.params for r in counted.rows if re.search(_SPARED_PATHS, r.path))
        return 1 - spared / counted.kernels.params

    def cells(self) -> list[Cell]:
        """The grid, in order of worth."""
        cells = [self.cell("dense", None, seed) for seed in SEEDS]
        for level in LEVELS:
            cells += [self.cell(m, level, seed) for m in COMPARED for seed in SEEDS]
            if self.has_depthwise and level in SPARED_LEVELS:
                cells += [self.spared_cell(level, seed) for seed in SEEDS]
            if level in TFMOT_LEVELS:
                for variant in (TFMOT, TFMOT_MASKED):
                    cells += [self.tfmot_cell(level, seed, variant) for seed in SEEDS]
        last = [("erk_rigl_static", level, seed) for level in LEVELS for seed in SEEDS]
        return cells + [self.cell(*key) for key in last]

    def calibration(self) -> list[Cell]:
        """STR at many decays, with one seed."""
        cells = []
        for method, trials in TRIED[self.calibrated].items():
            for decay, s_init in trials:
                ending = f"{method}-d{decay:g}-s{s_init:g}-seed0"
                recipe = self.recipe(
                    method=method, seed=0, threshold_decay=decay, s_init=s_init
                )
                name = f"{self.dataset}-{self.architecture}-{ending}"
                cells.append(Cell(name, recipe))
        return cells


_FASHION, _FASHION_RESNET, _CIFAR = (
    *("fashion_mobilenet", "fashion_resnet", "cifar_mobilenet"),
)
_FEW = {"epochs": 5}
"""CIFAR-10 in minutes of a CPU core; --epochs for who has a GPU."""
_GRIDS = {
    _FASHION: Grid("fashion_mnist_5k", "mobilenetv1", _FASHION),
    _FASHION_RESNET: Grid("fashion_mnist_5k", "resnet10", _FASHION_RESNET),
    _CIFAR: Grid("cifar10", "mobilenetv1", _CIFAR, _FEW),
    "cifar_resnet": Grid("cifar10", "resnet10", _FASHION_RESNET, _FEW),
    "fashion_full_mobilenet": Grid("fashion_mnist", "mobilenetv1", _FASHION),
    "fashion_full_resnet": Grid("fashion_mnist", "resnet10", _FASHION_RESNET),
}
_PAPER = {"imagenet_resnet50": "resnet50", "imagenet_mobilenet": "mobilenetv1"}

SUITES: dict[str, tuple[Grid, Callable[[Grid], list[Cell]]]] = {
    **{name: (grid, Grid.cells) for name, grid in _GRIDS.items()},
    **{f"{name}_targets": (grid, Grid.target_cells) for name, grid in _GRIDS.items()},
    "calibrate_mobilenet": (_GRIDS[_FASHION], Grid.calibration),
    "calibrate_resnet": (_GRIDS[_FASHION_RESNET], Grid.calibration),
    "calibrate_cifar": (_GRIDS[_CIFAR], Grid.calibration),
    "calibrate_pquant": (_GRIDS[_FASHION], Grid.pquant_calibration),
    "calibrate_pquant_resnet": (_GRIDS[_FASHION_RESNET], Grid.pquant_calibration),
}
NAMES = (*SUITES, *_PAPER)


def commands(name: str) -> list[str]:
    """The command lines of a suite of the paper's ImageNet runs; of others none."""
    if name not in _PAPER:
        return []
    paths = sorted((HERE / "configs" / "paper").glob(f"{_PAPER[name]}_*.toml"))
    return [
        f"python -m str_keras.train --config=paper/{path.stem} "
        f"--run_dir=runs/{path.stem}"
        for path in paths
    ]


def create(
    name: str, epochs: int | None = None, limit: int | None = None
) -> list[Cell]:
    """The cells of a suite, in order of worth.

    Args:
        name: Key of `SUITES`.
        epochs: Instead of the suite's; decays are carried over.
        limit: Images of each split that are used; None for all.

    Raises:
        ValueError: if there is no such suite.
    """
    if name not in SUITES:
        raise ValueError(
            f"--suite is one of {', '.join(NAMES)}. Received: suite={name!r}"
        )
    grid, cells = SUITES[name]
    if epochs is not None:
        grid = dataclasses.replace(grid, changes={**grid.changes, "epochs": epochs})
    return [dataclasses.replace(cell, limit=limit) for cell in cells(grid)]
