"""`shrink`: the same function with fewer channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from str_keras.channels.flow import Flow
from str_keras.channels.steps import Array, Mixing, Normalization, Opaque, Tensor
from str_keras.model import clone, finish_copy
from str_keras.stripping import strip


class _Rebuild:
    """From the flow of a model to its smaller twin."""

    def __init__(self, model: keras.Model):
        self.model = model
        self.flow = Flow(model)
        self.needed = self.flow.remove()
        self.config: dict[int, dict[str, Any]] = {}
        self.weights: dict[int, dict[str, Array]] = {}
        self.clones: list[tuple[Any, Any]] = []

    def _kept(self, tensor: Tensor) -> Array:
        return np.flatnonzero(~self.flow.removed(tensor))

    def plan(self) -> None:
        """Works out options and weights of the layers that change."""
        shifts: dict[int, Array] = {}
        for step in self.flow.steps:
            if isinstance(step, Opaque):
                continue
            needed = self.flow.needed_of(self.needed, step.output)
            kept = self._kept(step.output)
            weights = step.weights(kept, self._kept(step.inputs[0]), needed)
            if isinstance(step, Mixing):
                shift = np.where(needed, self.flow.folded(step) @ step.sums, 0.0)[kept]
                config = {_width(step.layer): len(kept)}
                if not step.layer.use_bias and self._is_normalized(step):
                    shifts[id(step.output)] = shift
                    del weights["bias"]
                elif step.layer.use_bias or shift.any():
                    config["use_bias"] = True
                    weights["bias"] = weights["bias"] + shift
                else:
                    del weights["bias"]
                self.config[id(step.layer)] = config
            elif isinstance(step, Normalization) and id(step.inputs[0]) in shifts:
                # (x + shift) - mean: exact without a bias of the convolution.
                weights["moving_mean"] -= shifts[id(step.inputs[0])]
            if weights:
                self.weights[id(step.layer)] = weights

    def _is_normalized(self, step: Mixing) -> bool:
        """Whether nothing but a batch norm reads the output, before any activation."""
        readers = [s for s in self.flow.steps if step.output in s.inputs]
        return (
            len(readers) == 1
            and isinstance(readers[0], Normalization)
            and id(step.output) not in self.flow.outputs
            and step.layer.activation is keras.activations.linear
        )

    def _clone(self, layer: Any) -> Any:
        config = {**layer.get_config(), **self.config.get(id(layer), {})}
        new = type(layer).from_config(config)
        self.clones.append((layer, new))
        return new

    def build(self) -> keras.Model:
        """The smaller model."""
        self.plan()
        smaller = clone(self.model, self._clone)
        for old, new in self.clones:
            values = self.weights.get(id(old))
            if values is not None:
                for variable in new.weights:
                    variable.assign(values[variable.name])
            elif isinstance(old, keras.Layer):
                new.set_weights(old.get_weights())
        finish_copy(smaller)
        return smaller


def _width(layer: Any) -> str:
    return "units" if isinstance(layer, keras.layers.Dense) else "filters"


def shrink(model: keras.Model) -> keras.Model:
    """Returns a smaller plain model with the same outputs in inference.

    Leaves out every channel that is dead exactly: whose kernel or batch-norm gamma is
    zero, or that nobody reads. A dead channel is constant; its constant, taken through
    batch norms, activations and pooling, is added to the bias of the layer that reads
    it (or taken from the mean of the batch norm behind it). Where zeros are padded a
    constant other than zero is not one at the edges: such a channel stays. A channel
    leaves an addition only if all its terms allow it. Every layer keeps one channel at
    least. The dead may be of any origin: `stk.sparsify_channels`, filters that died
    under `stk.sparsify`, weights set to zero by hand.

    Known are Dense, Conv1D/2D/3D without groups, DepthwiseConv1D/2D with a multiplier
    of 1, BatchNormalization, elementwise activations, pooling, dropout, zero padding,
    cropping, upsampling, Flatten and Add, all with their channels last. Any other
    layer, one that is called more than once or with options (`training=True`, a mask),
    and the borders of nested models are left as they are.

    Args:
        model: A built Functional or Sequential model, plain or sparse (it is stripped
            first). It is not changed.

    Returns:
        A model of plain layers with the same names, inputs and outputs, not compiled.
        Outputs differ by rounding: 1e-5 in float32, of the size of 1.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if it cannot be stripped, see `stk.strip`.
    """
    return _Rebuild(strip(model)).build()
