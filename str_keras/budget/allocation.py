"""Rules that spread one sparsity over the layers of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

import keras

from str_keras.budget.counting import kernel_paths
from str_keras.budget.rates import Budget
from str_keras.model import check_built, find_thresholded
from str_keras.selection import Skip, nothing_left, select
from str_keras.stripping import strip


def _shapes(
    model: keras.Model,
    sparsity: float,
    skip: Iterable[Skip] | Skip,
    policy: str | None,
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """Shapes of the kernels to spread over; a rate of 0 for each of the others."""
    number = isinstance(sparsity, Real) and not isinstance(sparsity, bool)
    if not number or not 0 <= sparsity <= 1:
        raise ValueError(
            "`sparsity` is the share of zeros, from 0 to 1 (divide percent by 100). "
            f"Received: {sparsity=}"
        )
    check_built(model)
    plain = strip(model) if any(True for _ in find_thresholded(model)) else model
    kernels, passed = select(plain, skip, policy)
    if not kernels:
        raise nothing_left(model, passed, "prune")
    # Of the model itself: a learned rank is folded in what is stripped.
    whole = {path: tuple(v.shape) for path, _, v in kernel_paths(model)}
    shapes = {kernel.path: whole[kernel.path] for kernel in kernels}
    # In order of the model, so that the tables of two budgets stand side by side.
    return shapes, dict.fromkeys(whole, 0.0)


def uniform(
    model: keras.Model,
    sparsity: float,
    skip: Iterable[Skip] | Skip = (),
    policy: str | None = None,
) -> Budget:
    """Gives each layer the same sparsity, the first and the last one included.

    Args:
        model: A built Functional or Sequential model, with thresholds or without.
        sparsity: Share of zeros in [0, 1].
        skip: Layers to leave dense, as of `stk.sparsify`.
        policy: What else to leave dense, as of `stk.sparsify`.

    Returns:
        A rate for each kernel; 0 for those left dense or without a threshold.

    Raises:
        TypeError: if `model` is no model, or a rule of `skip` of no known kind.
        ValueError: if `sparsity` is out of range, the model not built or subclassed, no
            kernel is left, or a name in `skip` is of no layer.
    """
    shapes, rates = _shapes(model, sparsity, skip, policy)
    rates |= dict.fromkeys(shapes, float(sparsity))
    return Budget(f"uniform@{100 * sparsity:.2f}", rates, "the same rate for all")


def erk(
    model: keras.Model,
    sparsity: float,
    skip: Iterable[Skip] | Skip = (),
    policy: str | None = None,
) -> Budget:
    """Gives each layer a density proportional to sum(shape) / product(shape).

    The shape is the kernel's with its spatial sizes; the factor is such that the
    kernels together have the sparsity asked for. A layer whose density would exceed 1
    stays dense, and the others make up for it. First and last layer are included.

    Args:
        model, sparsity, skip, policy: As of `uniform`; the sparsity is that of all
            kernels that are not left dense by `skip` or `policy`.

    Returns:
        A rate for each kernel; 0 for those left dense or without a threshold.

    Raises:
        TypeError, ValueError: as of `uniform`.

    Source: Evci et al. 2020, https://arxiv.org/abs/1911.11134, section 3 (1), the
    Erdos-Renyi-Kernel of the authors' https://github.com/google-research/rigl
    (`get_sparsities_erdos_renyi`).
    """
    shapes, rates = _shapes(model, sparsity, skip, policy)
    kept = (1 - sparsity) * sum(map(math.prod, shapes.values()))
    free = dict(shapes)
    factor = 0.0
    while free:
        # density * product = factor * sum
        factor = kept / sum(map(sum, free.values()))
        full = [path for path, s in free.items() if factor * sum(s) > math.prod(s)]
        if not full:
            break
        for path in full:  # these stay dense: the factor grows, so they stay full
            kept -= math.prod(free.pop(path))
    rates |= {path: 1 - factor * sum(s) / math.prod(s) for path, s in free.items()}
    return Budget(f"erk@{100 * sparsity:.2f}", rates, "Erdos-Renyi-Kernel")
