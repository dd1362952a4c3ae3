"""How far outputs are from those that they should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from str_keras.export.verify import INT8_AGREEMENT, INT8_DIFFERENCE, TOLERANCES

# Largest difference between two runtimes on the same file, relative to the largest
# output. Measured: float kernels up to 7e-7, int8 ones none, hybrid ones 3e-3.
_BETWEEN_RUNTIMES = {"float32": 1e-4, "float16": 1e-4}
_BETWEEN_INT8 = 0.02


@dataclasses.dataclass(frozen=True)
class Distance:
    """Outputs beside a reference: the worst of all outputs.

    Attributes:
        difference: max|outputs - reference| / max|reference|.
        agreement: Share of equal top-1; None for outputs of one value.
        fault: Another shape, or values that are not finite; empty if neither.
    """

    difference: float | None = None
    agreement: float | None = None
    fault: str = ""


def distance(
    heads: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> Distance:
    """Compares outputs, each with that of the same place in the reference.

    Args:
        heads: By name, `[n, ...]`.
        reference: The same; empty if there is none, as is the distance then.
    """
    if not reference:
        return Distance()
    if len(heads) != len(reference):
        return Distance(fault=f"{len(heads)} outputs instead of {len(reference)}")
    differences, agreements = [], []
    for values, wanted in zip(heads.values(), reference.values(), strict=True):
        if values.shape != wanted.shape:
            return Distance(fault=f"outputs {values.shape}, not {wanted.shape}")
        if not (np.isfinite(values).all() and np.isfinite(wanted).all()):
            return Distance(fault="the outputs, or the reference's, are not finite")
        exact = wanted.astype("float64")
        largest, error = np.abs(exact).max(), np.abs(values - exact).max()
        differences.append(error / largest if largest else (np.inf if error else 0.0))
        if wanted.ndim > 1 and wanted.shape[-1] > 1:
            agreements.append(np.mean(values.argmax(-1) == wanted.argmax(-1)))
    agreement = float(min(agreements)) if agreements else None
    return Distance(float(max(differences)), agreement)


def tolerance_for(weights: str, reference: str) -> float:
    """Largest difference that a file of such weights may have.

    Args:
        weights: As of `weights_of`.
        reference: "Keras", or "native": the same file on this CPU.
    """
    if reference == "native":
        return _BETWEEN_RUNTIMES.get(weights, _BETWEEN_INT8)
    return TOLERANCES.get(weights, INT8_DIFFERENCE)


def fault(found: Distance, weights: str, reference: str, tolerance: float) -> str:
    """What is wrong with outputs at such a distance; empty if nothing.

    Args:
        found: As of `distance`.
        weights: As of `weights_of`.
        reference: "Keras" or "native".
        tolerance: Largest difference.
    """
    if found.fault or found.difference is None:
        return found.fault
    # Zeros are wrong by as much as the largest output, whatever the tolerance.
    if found.difference > tolerance or found.difference >= INT8_DIFFERENCE:
        return (
            f"wrong outputs: max|difference| / max|y| to {reference} is "
            f"{found.difference:.2g}, above {tolerance:g}"
        )
    share = found.agreement
    if share is None or weights != "int8" or reference != "Keras":
        return ""
    if share < INT8_AGREEMENT:
        return f"wrong outputs: they choose as Keras does on {share:.0%} of the samples"
    return ""
