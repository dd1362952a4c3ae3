"""`SoftThreshold`, the wrapper of one layer, and what it shares with whole models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from str_keras.internals import adopt_signature, all_sublayers, full_precision
from str_keras.kernels import Kernel, find_kernels, kernel_axes
from str_keras.logits import add_logit, check_s_init
from str_keras.operators import (
    Backward,
    Operator,
    Share,
    apply_threshold,
    get_backward,
    get_operator,
)
from str_keras.recurrent import FastGRNN, FastGRNNCell
from str_keras.substitution import Substitution
from str_keras.thresholds import (
    THRESHOLD_LOGIT,
    Tensor,
    ThresholdFunction,
    get_g,
    ops,
)

GRANULARITIES = ("layer", "filter", "weight")


def logit_shape(kernel: Kernel, granularity: str) -> tuple[int, ...]:
    """Shape of the logits of one kernel, broadcastable to it.

    Args:
        kernel: The kernel.
        granularity: "layer": one, shape `()`; "filter": one per output filter, 1 on
            the other axes; "weight": the kernel's shape.

    Raises:
        ValueError: if the granularity is another.
    """
    shape = tuple(kernel.variable.shape)
    if granularity == "layer":
        return ()
    if granularity == "weight":
        return shape
    if granularity == "filter":
        kept = {axis % len(shape) for axis in kernel.filter_axes}
        return tuple(n if i in kept else 1 for i, n in enumerate(shape))
    raise ValueError(
        f"`granularity` is one of {GRANULARITIES}. Received: {granularity=}"
    )


def check_learns(operator: str | Operator) -> Operator:
    """Returns the operator of a name, if thresholds can be learned through it.

    Raises:
        ValueError: if it is unknown, or gives thresholds no gradient.
    """
    found = get_operator(operator)
    if found.threshold_slope is None:
        raise ValueError(
            'This operator gives thresholds no gradient: learn them with "soft", or '
            'set them by `threshold="quantile(global)"` of `stk.sparsify`. '
            f"Received: operator={found.name!r}"
        )
    return found


SOFT = get_operator("soft")


@dataclass(frozen=True)
class ThresholdedKernel:
    """A kernel with its logit: what a layer reads instead of its raw kernel.

    Args:
        kernel: The raw kernel and its layer.
        logit: s, of a shape that broadcasts to the kernel's.
        g: Map from logit to threshold.
        operator: What the threshold does to the kernel.
        share: What pruned weights get of the gradient: a number, or a variable.
        offset: Variable of what is added to s, one value a kernel, and the place of
            this kernel in it; None: nothing is.
    """

    kernel: Kernel
    logit: keras.Variable
    g: ThresholdFunction
    operator: Operator = SOFT
    share: float | keras.Variable = 0.0
    offset: tuple[keras.Variable, int] | None = None
    counted: ClassVar[bool] = True
    """Whether its zeros count as sparsity, and not as another kernel's."""

    def threshold(self) -> Tensor:
        """g(s), of the logit's shape and dtype, in units of the kernel."""
        with full_precision():
            logit = ops.convert_to_tensor(self.logit.value)
            if self.offset is not None:
                offsets, index = self.offset
                offset = ops.convert_to_tensor(offsets.value)[index]
                logit = logit + ops.cast(offset, logit.dtype)
            return self.g(logit)

    def sparse(self) -> Tensor:
        """The operator's kernel at g(s), of the kernel's shape and dtype.

        Computed in the logit's dtype: a 16-bit kernel is cast up and back.
        """
        with full_precision():
            raw = ops.convert_to_tensor(self.kernel.variable.value)
            threshold = self.threshold()
            raised = ops.cast(raw, threshold.dtype)
            share = read_share(self.share)
            sparse = apply_threshold(raised, threshold, self.operator, share)
            return ops.cast(sparse, raw.dtype)


def raise_precision(kernel: Tensor) -> Tensor:
    """A kernel as float32, or as it is in float64."""
    wide = keras.backend.standardize_dtype(kernel.dtype) == "float64"
    return kernel if wide else ops.cast(kernel, "float32")


def read_share(share: float | keras.Variable) -> Share:
    """The share of a backward rule: a number as it is, a variable's present value."""
    if isinstance(share, float | int):
        return share
    return ops.convert_to_tensor(share.value)


def check_kernels_are_read(layers: Iterable[keras.Layer]) -> None:
    """Raises for a layer that reads something else than its kernel, with the mend.

    Args:
        layers: Whose kernels have thresholds.

    Raises:
        ValueError: if one is quantized or has LoRA enabled.
    """
    for layer in layers:
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "A quantized layer does not read its kernel: strip first, then "
                f"quantize. Received: layer={layer.name} with "
                f"quantization_mode={layer.quantization_mode!r}"
            )
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                "With LoRA a layer adds a dense product to its sparse kernel: save its "
                "weights, which merges the two, and load them into a layer without "
                f"LoRA. Received: layer={layer.name}"
            )


def call_substituted(
    owner: keras.Layer,
    layer: keras.Layer,
    thresholded: Iterable[ThresholdedKernel],
    args: tuple,
    kwargs: dict[str, Any],
) -> Any:
    """Calls `layer` with its sparse kernels; losses added inside go to `owner`."""
    mapping = [(item.kernel.variable, item.sparse()) for item in thresholded]
    with Substitution(mapping) as scope:
        # Not `layer.call`: masks, autocast and activity losses come from `__call__`.
        outputs = layer(*args, **kwargs)
    for loss in scope.losses:
        owner.add_loss(loss)
    return outputs


@keras.saving.register_keras_serializable("str_keras")
class SoftThreshold(keras.layers.Wrapper):
    """Wraps a layer so that it works with its soft-thresholded kernels.

    `sign(w) relu(|w| - g(s))` with one trainable logit s per kernel (Kusupati et al.
    2020, section 3), unless another `operator` is named. The raw kernel stays the
    wrapped layer's own weight; regularizers and constraints act on that raw kernel.
    `strip` gives the plain layer back.

    What lowers s is the L2 decay of `str_keras.optimizers`: Keras' own `weight_decay`
    is decoupled from the gradient and leaves the layer dense.

    Args:
        layer: Dense, EinsumDense, Conv1D/2D/3D, Conv1D/2D/3DTranspose,
            DepthwiseConv1D/2D, SeparableConv1D/2D, Embedding, ReversibleEmbedding,
            MultiHeadAttention, GroupQueryAttention, SimpleRNN, LSTM, GRU,
            ConvLSTM1D/2D/3D, RNN over cells of these or FastGRNN's, Bidirectional or
            TimeDistributed over any of them; or any layer with `kernels`. A recurrent
            layer's are thresholded once a call, not at each step.
        s_init: Initial logit; None is the default of `g` (-40 for "sigmoid", -10 for
            "exp"; the paper's 100-epoch ImageNet runs use -3200 and -12800).
            `stk.forecast` suggests one for a schedule.
        g: Map from s to the threshold: "sigmoid", "exp", or what `register_g` knows.
        granularity: "layer", "filter" (per output filter) or "weight".
        kernels: Names of the variables to be thresholded, for a layer of another
            type, or to choose among the known ones, such as `["recurrent_kernel"]`.
        operator: What the threshold does to the kernel: "soft", or another of
            `stk.register_operator` that gives thresholds a gradient.
        backward: What pruned weights get of the gradient: "masked" (none, the paper),
            "straight_through", "scaled(0.5)"; a rule that changes along the training
            is for whole models, see `stk.sparsify`.

    Call arguments:
        Those of the wrapped layer.

    Returns:
        What the wrapped layer returns.

    `thresholded` lists, once built, each kernel with its logit.

    Raises:
        TypeError: if the layer's type is unknown and `kernels` is not given.
        ValueError: for another granularity, a non-finite `s_init`, an unknown `g`,
            an operator that learns no thresholds, or a layer that already is a
            SoftThreshold; when built or called, if the layer is quantized or has LoRA
            enabled: it would not read its sparse kernel alone.
    """

    def __init__(
        self,
        layer: keras.Layer,
        s_init: float | None = None,
        g: Any = "sigmoid",
        granularity: str = "layer",
        kernels: Sequence[str] | None = None,
        operator: str | Operator = "soft",
        backward: str | Backward = "masked",
        **kwargs: Any,
    ):
        if isinstance(layer, SoftThreshold):
            raise ValueError(
                f"The layer has thresholds already. Received: layer={layer.name}"
            )
        kwargs.setdefault("name", getattr(layer, "name", None))
        kwargs.setdefault("dtype", getattr(layer, "dtype_policy", None))
        # The wrapped layer casts its inputs by its own policy, as it does alone.
        super().__init__(layer, autocast=False, **kwargs)
        if kernels is None and not kernel_axes(layer):
            raise TypeError(
                "This layer's kernels are not known: name them with `kernels=[...]`. "
                f"Received: layer={type(layer).__name__}"
            )
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"`granularity` is one of {GRANULARITIES}. Received: {granularity=}"
            )
        self.g = get_g(g)
        self.s_init = check_s_init(s_init, self.g)
        self.granularity = granularity
        self.kernel_names = None if kernels is None else list(kernels)
        self.operator = check_learns(operator)
        self.backward = get_backward(backward)
        if self.backward.constant is None:
            raise ValueError(
                "A backward rule that changes along the training wants a whole model: "
                f"`stk.sparsify`. Received: backward={self.backward.name!r}"
            )
        self.supports_masking = layer.supports_masking
        adopt_signature(self, layer)

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the wrapped layer, if it is not built, and the logits."""
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        check_kernels_are_read([self.layer, *all_sublayers(self.layer)])
        kernels = find_kernels(self.layer, self.name, self.kernel_names)
        self.threshold_logits = [
            add_logit(
                self,
                f"{THRESHOLD_LOGIT}_{self._below(kernel).replace('/', '_')}",
                logit_shape(kernel, self.granularity),
                self.s_init,
                kernel.variable.dtype,
            )
            for kernel in kernels
        ]
        # Through __dict__: tracked, the kernels would be saved twice.
        self.__dict__["thresholded"] = [
            ThresholdedKernel(
                kernel, logit, self.g, self.operator, self.backward.constant or 0.0
            )
            for kernel, logit in zip(kernels, self.threshold_logits, strict=True)
        ]

    def _below(self, kernel: Kernel) -> str:
        return kernel.path.removeprefix(f"{self.name}/")

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the wrapped layer with its sparse kernels."""
        check_kernels_are_read([self.layer, *all_sublayers(self.layer)])
        return call_substituted(self, self.layer, self.thresholded, args, kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """That of the wrapped layer."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """That of the wrapped layer."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """That of the wrapped layer."""
        return self.layer.compute_mask(*args, **kwargs)

    def get_build_config(self) -> dict[str, Any] | None:
        """That of the wrapped layer: its `build` may take other arguments than one."""
        return self.layer.get_build_config() if self.built else None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds from the wrapped layer's build configuration."""
        if config and not self.layer.built:
            self.layer.build_from_config(config)
        self.build()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; `g` by its name."""
        return {
            **super().get_config(),
            "s_init": self.s_init,
            "g": self.g.name,
            "granularity": self.granularity,
            "kernels": self.kernel_names,
            "operator": self.operator.name,
            "backward": self.backward.name,
        }


__all__ = ["FastGRNN", "FastGRNNCell", "SoftThreshold"]
