"""The budgets that the STR paper learned for ResNet50 on ImageNet.

resnet50_published.csv holds, for each of the 54 kernels in the names of
`str_keras.models.ResNet50`, its weights, the MACs at 224 pixels, and the percent of
zeros in each of the 16 networks, rounded to 0.01 by the authors.

Source: Kusupati et al., ICML 2020, https://arxiv.org/abs/2002.03231, appendix (the
layer-wise sparsity of ResNet50), and budgets/STR_Budgets_ResNet50.csv of the authors'
https://github.com/RAIVNLab/STR.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib.resources
from typing import overload

from str_keras.budget.rates import Budget

_FILE = "resnet50_published.csv"
_SOURCE = "Kusupati et al. 2020, arXiv:2002.03231, learned by STR on ImageNet"


@functools.cache
def _read() -> dict[str, Budget]:
    text = (importlib.resources.files("str_keras.budget") / _FILE).read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    columns = [column for column in rows[0] if column.startswith("percent@")]
    names = {f"resnet50@{column.partition('@')[2]}": column for column in columns}
    return {
        # Rounded, as 51.46 / 100 is 0.5146000000000001.
        name: Budget(
            name, {row["layer"]: round(float(row[c]) / 100, 4) for row in rows}, _SOURCE
        )
        for name, c in names.items()
    }


@overload
def published(name: None = None) -> tuple[str, ...]: ...


@overload
def published(name: str) -> Budget: ...


def published(name: str | None = None) -> tuple[str, ...] | Budget:
    """Returns a budget of the paper, or the names of all.

    Args:
        name: The network and its overall percent of zeros, such as "resnet50@90.23";
            None lists the names, from the densest network to the sparsest.

    Raises:
        ValueError: if there is no such budget (the names are listed).
    """
    budgets = _read()
    if name is None:
        return tuple(budgets)
    network, _, percent = str(name).partition("@")
    with contextlib.suppress(ValueError):
        name = f"{network}@{float(percent):.2f}"  # also "resnet50@94.8"
    if name not in budgets:
        raise ValueError(
            f"No budget of this name is published, only {', '.join(budgets)}. "
            f"Received: {name=}"
        )
    return budgets[name]
