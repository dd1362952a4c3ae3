"""The nets that are timed, in Keras: small images, so that a CPU gets through."""

from __future__ import annotations

from typing import Any

CLASSES = 100
SIDES = {"mobilenetv1": 64, "resnet50": 64}
LENGTH, WIDTH, HEADS, BLOCKS = 64, 128, 4, 2
NETS = (*SIDES, "transformer")
"""MobileNetV1 and ResNet50 on 64 pixels, and two blocks of width 128 on 64 vectors."""


def _transformer(layers: Any, model: Any) -> Any:
    inputs = x = layers.Input((LENGTH, WIDTH))
    for i in range(BLOCKS):
        y = layers.LayerNormalization(name=f"norm{i}_1")(x)
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"heads{i}")
        x = layers.Add()([x, attention(y, y)])
        y = layers.LayerNormalization(name=f"norm{i}_2")(x)
        # Of a Dense with an activation PQuantML makes two layers.
        y = layers.ReLU()(layers.Dense(4 * WIDTH, name=f"up{i}")(y))
        x = layers.Add()([x, layers.Dense(WIDTH, name=f"down{i}")(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return model(inputs, layers.Dense(CLASSES, name="fc")(x))


def create(net: str) -> Any:
    """A dense Keras net.

    Args:
        net: One of `NETS`.
    """
    import keras

    import str_keras as stk

    if net == "transformer":
        return _transformer(keras.layers, keras.Model)
    kind = {"mobilenetv1": stk.models.MobileNetV1, "resnet50": stk.models.ResNet50}[net]
    return kind(input_shape=(SIDES[net], SIDES[net], 3), classes=CLASSES)


def create_tf_keras(net: str) -> Any:
    """Its twin in tf_keras, by that package's own builders: what tfmot can wrap.

    Args:
        net: One of `NETS`.
    """
    import tf_keras

    if net == "transformer":
        return _transformer(tf_keras.layers, tf_keras.Model)
    kinds = tf_keras.applications
    kind = {"mobilenetv1": kinds.MobileNet, "resnet50": kinds.ResNet50}[net]
    options = {"dropout": 0.0} if net == "mobilenetv1" else {}
    return kind(
        input_shape=(SIDES[net], SIDES[net], 3),
        classes=CLASSES,
        weights=None,
        classifier_activation=None,
        **options,
    )
