"""STR on batch-norm scales: thresholds that remove whole channels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import layers

from str_keras.channels.flow import Flow
from str_keras.channels.steps import Mixing, Normalization, Opaque
from str_keras.internals import full_precision
from str_keras.layers import SoftThreshold, ThresholdedKernel, logit_shape
from str_keras.logits import add_logit, check_s_init
from str_keras.model import SubstitutedModel, check_built, clone, finish_copy
from str_keras.selection import Kernel, Skip, check_rules, matches, walk
from str_keras.stripping import strip
from str_keras.thresholds import THRESHOLD_LOGIT, Tensor, get_g, ops

CHANNEL_GRANULARITIES = ("layer", "channel")


@dataclass(frozen=True)
class ScaledOffset:
    """Beta of a thresholded batch norm: read as gamma~ beta, so 0 where gamma~ is.

    Args:
        kernel: Beta and its layer.
        scale: Gamma of the same layer.
    """

    kernel: Kernel
    scale: ThresholdedKernel
    counted: ClassVar[bool] = False  # its zeros are gamma's

    def threshold(self) -> Tensor:
        """Gamma's."""
        return self.scale.threshold()

    def sparse(self) -> Tensor:
        """gamma~ beta, of shape (channels,) and the dtype of beta."""
        with full_precision():
            beta = ops.convert_to_tensor(self.kernel.variable.value)
            return ops.cast(self.scale.sparse(), beta.dtype) * beta


@keras.saving.register_keras_serializable("str_keras")
class ChannelThreshold(SoftThreshold):
    """Wraps a batch norm so that its scale has a soft threshold: channels die whole.

    With gamma~ = `sign(gamma) relu(|gamma| - g(s))` and x^ the normalized input the
    output is gamma~ x^ + gamma~ beta: where |gamma| <= g(s) the channel is exactly 0,
    beta and all. `stk.strip` gives a plain BatchNormalization of scale gamma~ and
    offset gamma~ beta back, `stk.shrink` takes the dead channels out of the network.

    As with kernels, the L2 decay of `str_keras.optimizers` lowers gamma and drives s.

    Args:
        layer: A `keras.layers.BatchNormalization` with `scale=True`.
        s_init: Initial logit; None is the default of `g`. Gamma begins at 1: by
            "sigmoid", whose thresholds stay below 1, all channels are alive at first.
        g: As of `SoftThreshold`.
        granularity: "layer": one threshold for all channels; "channel": one for each.

    Call arguments:
        Those of the batch norm.

    Returns:
        What the batch norm returns.

    Raises:
        TypeError: if the layer is no BatchNormalization.
        ValueError: if it has no gamma, or for another argument out of range.

    Source: the operator of Kusupati et al. 2020, section 3, applied to the scales of
    Ioffe and Szegedy 2015.
    """

    def __init__(
        self,
        layer: keras.Layer,
        s_init: float | None = None,
        g: Any = "sigmoid",
        granularity: str = "layer",
        **kwargs: Any,
    ):
        check_channel_granularity(granularity)
        if not isinstance(layer, layers.BatchNormalization):
            raise TypeError(
                "Channels have their thresholds on a BatchNormalization. "
                f"Received: layer={type(layer).__name__}"
            )
        if not layer.scale:
            raise ValueError(
                "The batch norm has no gamma to be thresholded: build it with "
                f"scale=True. Received: layer={layer.name}"
            )
        super().__init__(layer, s_init, g, kernels=["gamma"], **kwargs)
        self.granularity = granularity

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the batch norm, if it is not built, and the logit."""
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        gamma = Kernel(f"{self.name}/gamma", self.layer, self.layer.gamma, (-1,))
        per_channel = self.granularity == "channel"
        shape = logit_shape(gamma, "filter" if per_channel else "layer")
        name, dtype = f"{THRESHOLD_LOGIT}_gamma", gamma.variable.dtype
        self.threshold_logits = [add_logit(self, name, shape, self.s_init, dtype)]
        scale = ThresholdedKernel(gamma, self.threshold_logits[0], self.g)
        found: list[ThresholdedKernel | ScaledOffset] = [scale]
        if self.layer.center:
            beta = Kernel(f"{self.name}/beta", self.layer, self.layer.beta, (-1,))
            found.append(ScaledOffset(beta, scale))
        # Through __dict__: tracked, gamma and beta would be saved twice.
        self.__dict__["thresholded"] = found

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; `g` by its name."""
        config = super().get_config()
        del config["kernels"]
        return config


def check_channel_granularity(granularity: str) -> None:
    """Raises a ValueError if it is none of `CHANNEL_GRANULARITIES`."""
    if granularity not in CHANNEL_GRANULARITIES:
        raise ValueError(
            f"`granularity` is one of {CHANNEL_GRANULARITIES}. Received: {granularity=}"
        )


def _effective(model: keras.Model) -> set[str]:
    """Paths of the layers on whose output a threshold can take out single channels.

    Not where channels are tied, and not before another batch norm of the same
    channels, as that of a depthwise convolution: it undoes any scale, so that gamma
    has no gradient and decay alone moves it, all channels alike.
    """
    plain = strip(model)  # thresholds on kernels do not move channels
    flow = Flow(plain)
    rescaled: set[int] = set()  # tensors that a batch norm will normalize
    effective = set()
    for step in reversed(flow.steps):
        space = flow.space(step.output)
        if not (space.pinned or space.added or id(step.output) in rescaled):
            effective.add(id(step.layer))
        passes = not isinstance(step, Mixing | Opaque)
        if isinstance(step, Normalization) or (passes and id(step.output) in rescaled):
            rescaled |= {id(x) for x in step.inputs}
    return {path for path, layer in walk(plain) if id(layer) in effective}


def _select(
    model: keras.Model, skip: Iterable[Skip] | Skip, everywhere: bool
) -> dict[int, keras.Layer]:
    single = isinstance(skip, str | re.Pattern | type) or callable(skip)
    rules: list[Skip] = [skip] if single else list(skip)  # type: ignore[arg-type]
    found = list(walk(model))
    check_rules(rules, found)
    effective = None if everywhere else _effective(model)
    return {
        id(layer): layer
        for path, layer in found
        if isinstance(layer, layers.BatchNormalization)
        and layer.scale
        and layer.trainable
        and (effective is None or path in effective)
        and not any(matches(rule, path, layer) for rule in rules)
    }


def sparsify_channels(
    model: keras.Model,
    s_init: float | None = None,
    g: Any = "sigmoid",
    granularity: str = "layer",
    skip: Iterable[Skip] | Skip = (),
    everywhere: bool = False,
) -> keras.Model:
    """Returns a copy of a model with learnable soft thresholds on its batch norms.

    For structured sparsity: train it, `stk.strip` it, and `stk.shrink` takes the
    channels that died out of the network. Weights are copied; the model given is not
    changed. It may have `SoftThreshold` layers: kernels and channels go together.

    Args:
        model: A built Functional or Sequential model; nested ones are opened.
        s_init: Initial logit; None is the default of `g`. See `ChannelThreshold`.
        g: "sigmoid", "exp", or what `stk.register_g` knows.
        granularity: "layer": one threshold for all channels of a batch norm;
            "channel": one for each.
        skip: Batch norms to leave dense, as for `stk.sparsify`.
        everywhere: Whether to threshold also the batch norms that are left out else:
            where channels cannot leave one by one (before an addition, as the last of
            each residual block; before an output or an unknown layer), and where the
            scale does not matter because another batch norm follows (a MobileNet's
            pointwise ones, before a depthwise convolution: their channels leave with
            those of the depthwise one).

    Returns:
        A model of the same class with `ChannelThreshold` layers under the names of
        the batch norms, not compiled.

    Raises:
        TypeError: if `model` is no model, or a rule of `skip` of no known kind.
        ValueError: if the model is not built, subclassed, made by `stk.sparsify`, has
            such thresholds already or no batch norm for them, or an argument is
            unknown.
    """
    check_built(model)
    check_channel_granularity(granularity)
    check_s_init(s_init, get_g(g))
    nested = [model, *(layer for _, layer in walk(model))]
    if any(isinstance(item, SubstitutedModel | ChannelThreshold) for item in nested):
        raise ValueError(
            "The model has thresholds already: strip it first, or place SoftThreshold "
            f"around single layers. Received: model={model.name}"
        )
    chosen = _select(model, skip, everywhere)
    if not chosen:
        raise ValueError(
            "No batch norm is left of which single channels could leave the model; "
            f"`everywhere=True` takes all. Received: model={model.name}"
        )
    copies: list[tuple[keras.Layer, keras.Layer]] = []

    def copy(layer: Any) -> Any:
        new = type(layer).from_config(layer.get_config())
        copies.append((layer, new))
        if id(layer) not in chosen:
            return new
        return ChannelThreshold(new, s_init, g, granularity)

    sparse = clone(model, copy)
    for old, new in copies:
        if isinstance(old, keras.Layer):
            new.set_weights(old.get_weights())
    finish_copy(sparse)
    return sparse
