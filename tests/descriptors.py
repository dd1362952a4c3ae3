"""Every layer that SoftThreshold wraps, once: the tests run over this table."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from str_keras.layers import FastGRNN, FastGRNNCell


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    create: Callable[[], keras.Layer]
    input_shape: tuple[int, ...]
    macs: tuple[int, ...]
    """Per kernel, counted by hand."""
    filters: tuple[tuple[int, ...], ...]
    """Per kernel, the shape of its logits with granularity="filter"."""
    call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    """Calls a layer on a symbolic input."""
    classes: int = 0
    """Inputs are integers below it, if not 0."""

    def net(self, layer: keras.Layer | None = None) -> keras.Model:
        """A model of one layer, which is `create()` unless given."""
        dtype = "int32" if self.classes else None
        x = keras.Input(self.input_shape, dtype=dtype)
        return keras.Model(x, self.call(layer or self.create(), x))

    def inputs(self, number: int = 4) -> np.ndarray:
        """Random examples, float64 or int32."""
        rng, shape = np.random.default_rng(1), (number, *self.input_shape)
        if self.classes:
            return rng.integers(0, self.classes, shape).astype("int32")
        return rng.normal(size=shape)


def attend(layer, x):
    """A query of other length than the value."""
    return layer(x[:, 1:], x)


CASES = [
    Case("dense", lambda: layers.Dense(5), (7,), (35,), ((1, 5),)),
    Case("dense_3d", lambda: layers.Dense(5), (4, 7), (4 * 35,), ((1, 5),)),
    Case(
        "conv1d",
        lambda: layers.Conv1D(5, 3, padding="causal"),
        (9, 4),
        (9 * 3 * 4 * 5,),
        ((1, 1, 5),),
    ),
    Case(
        "conv2d",
        lambda: layers.Conv2D(6, 3, strides=2, padding="same"),
        (7, 8, 3),
        (4 * 4 * 9 * 3 * 6,),
        ((1, 1, 1, 6),),
    ),
    Case(
        "conv2d_groups",
        lambda: layers.Conv2D(6, 3, groups=2, use_bias=False),
        (6, 6, 4),
        (4 * 4 * 9 * 2 * 6,),
        ((1, 1, 1, 6),),
    ),
    Case(
        "conv3d",
        lambda: layers.Conv3D(4, 2),
        (4, 5, 6, 2),
        (3 * 4 * 5 * 8 * 2 * 4,),
        ((1, 1, 1, 1, 4),),
    ),
    Case(
        "conv1d_transpose",
        lambda: layers.Conv1DTranspose(5, 3, strides=2),
        (6, 4),
        (6 * 3 * 5 * 4,),
        ((1, 5, 1),),
    ),
    Case(
        "conv2d_transpose",
        lambda: layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
        (4, 5, 3),
        (4 * 5 * 9 * 5 * 3,),
        ((1, 1, 5, 1),),
    ),
    Case(
        "conv3d_transpose",
        lambda: layers.Conv3DTranspose(3, 2),
        (3, 3, 3, 2),
        (27 * 8 * 3 * 2,),
        ((1, 1, 1, 3, 1),),
    ),
    Case(
        "depthwise1d",
        lambda: layers.DepthwiseConv1D(3, depth_multiplier=2),
        (8, 4),
        (6 * 3 * 4 * 2,),
        ((1, 4, 2),),
    ),
    Case(
        "depthwise2d",
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 7, 4),
        (4 * 5 * 9 * 4 * 2,),
        ((1, 1, 4, 2),),
    ),
    Case(
        "separable1d",
        lambda: layers.SeparableConv1D(5, 3),
        (8, 4),
        (6 * 3 * 4, 6 * 4 * 5),
        ((1, 4, 1), (1, 1, 5)),
    ),
    Case(
        "separable2d",
        lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2),
        (6, 6, 3),
        (16 * 9 * 3 * 2, 16 * 6 * 5),
        ((1, 1, 3, 2), (1, 1, 1, 5)),
    ),
    Case(
        "einsum_dense",
        lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 6)),
        (4, 5),
        (4 * 5 * 6,),
        ((1, 6),),
    ),
    Case(
        "einsum_heads",
        lambda: layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3)),
        (4, 5),
        (4 * 5 * 2 * 3,),
        ((1, 2, 3),),
    ),
    # Kernels of recurrent layers are used once at each of the four steps.
    Case(
        "simple_rnn",
        lambda: layers.SimpleRNN(5),
        (4, 3),
        (4 * 3 * 5, 4 * 5 * 5),
        ((1, 5), (1, 5)),
    ),
    Case(
        "lstm",
        lambda: layers.LSTM(3),
        (4, 5),
        (4 * 5 * 12, 4 * 3 * 12),
        ((1, 12), (1, 12)),
    ),
    Case(
        "gru",
        lambda: layers.GRU(3, return_sequences=True),
        (4, 5),
        (4 * 5 * 9, 4 * 3 * 9),
        ((1, 9), (1, 9)),
    ),
    Case(
        "stacked_cells",
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        (4, 5),
        (4 * 5 * 12, 4 * 3 * 12, 4 * 3 * 6, 4 * 2 * 6),
        ((1, 12), (1, 12), (1, 6), (1, 6)),
    ),
    Case(
        "bidirectional",
        # Keras' own orthogonal matrices cannot be made in bfloat16.
        lambda: layers.Bidirectional(
            layers.GRU(3, recurrent_initializer="glorot_uniform")
        ),
        (4, 5),
        2 * (4 * 5 * 9, 4 * 3 * 9),
        4 * ((1, 9),),
    ),
    Case(
        "fast_grnn",
        lambda: FastGRNN(FastGRNNCell(4, kernel_rank=2)),
        (4, 5),
        (4 * 5 * 2, 4 * 2 * 4, 4 * 4 * 4),
        ((1, 2), (1, 4), (1, 4)),
    ),
    Case(
        "conv_lstm1d",
        lambda: layers.ConvLSTM1D(2, 3, padding="same"),
        (3, 5, 2),
        2 * (3 * 5 * 3 * 2 * 8,),
        2 * ((1, 1, 8),),
    ),
    Case(
        "conv_lstm2d",
        lambda: layers.ConvLSTM2D(2, 2, return_sequences=True),
        (2, 4, 5, 3),
        (2 * 3 * 4 * 4 * 3 * 8, 2 * 3 * 4 * 4 * 2 * 8),
        2 * ((1, 1, 1, 8),),
    ),
    Case(
        "conv_lstm3d",
        lambda: layers.ConvLSTM3D(2, 2),
        (2, 3, 3, 3, 1),
        (2 * 8 * 8 * 8, 2 * 8 * 8 * 2 * 8),
        2 * ((1, 1, 1, 1, 8),),
    ),
    Case(
        "time_distributed",
        lambda: layers.TimeDistributed(layers.Conv2D(3, 2, padding="same")),
        (2, 4, 4, 2),
        (2 * 16 * 4 * 2 * 3,),
        ((1, 1, 1, 3),),
    ),
    Case(
        "attention",
        # Keras' attention on JAX wants values as long as the keys.
        lambda: layers.MultiHeadAttention(2, 3, use_gate=True),
        (4, 5),
        # Query, key, gate, value, output; three places are queried, four are there.
        (3 * 5 * 6, 4 * 5 * 6, 3 * 5 * 6, 4 * 5 * 6, 3 * 6 * 5),
        (*4 * ((1, 2, 3),), (1, 1, 5)),
        attend,
    ),
    Case(
        "grouped_attention",
        lambda: layers.GroupQueryAttention(3, 4, 2),
        (4, 5),
        (3 * 5 * 12, 4 * 5 * 6, 4 * 5 * 6, 3 * 12 * 5),
        ((1, 4, 3), (1, 2, 3), (1, 2, 3), (1, 1, 5)),
        attend,
    ),
    # What it reads, it does not multiply.
    Case("embedding", lambda: layers.Embedding(7, 3), (4,), (0,), ((1, 3),), classes=7),
    Case(
        "reversible_embedding",
        lambda: layers.ReversibleEmbedding(7, 3),
        (4,),
        (4 * 3 * 7,),
        ((1, 3),),
        lambda layer, x: layer(layer(x), reverse=True),
        classes=7,
    ),
]
BY_NAME = {case.name: case for case in CASES}
