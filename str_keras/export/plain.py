"""From any trained model to the plain float32 one that is converted."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from str_keras.model import SubstitutedModel, finish_copy
from str_keras.thresholds import is_threshold_state

Tensor: TypeAlias = Any

_CHUNK = 32


class PreprocessingLike(Protocol):
    """What export needs of `str_keras.data.Preprocessing`; TensorFlow operations."""

    def resize(self, images: Tensor) -> Tensor:
        """uint8 `[B, h, w, C]` of any size to float32 `[B, H, W, C]` in 0 to 255."""
        ...

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels `[B, H, W, C]`, uint8 or float, to the model's float32 inputs."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All settings, for the file beside the model."""
        ...


def plain_model(model: keras.Model) -> keras.Model:
    """The model that export converts and compares with: stripped, float32, one device.

    Args:
        model: Built, one input and one output; sparsified, hand-wrapped or plain, of
            any dtype policy. It is not changed.

    Returns:
        The model itself if it is plain and float32 already, else a copy.

    Raises:
        TypeError: if it is no Keras model.
        ValueError: for another Keras backend, an unbuilt model, more than one input
            or output, an input shape with free dimensions other than the batch, or a
            model that Keras cannot copy to float32.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"a keras.Model is needed. Received: {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export needs Keras' TensorFlow backend: save the model as .keras and "
            "convert it with KERAS_BACKEND=tensorflow. "
            f"Received: backend={keras.backend.backend()}"
        )
    model = _strip(model)
    inputs, outputs = _ends(model)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "export takes models of one input and one output. "
            f"Received: {len(inputs)} inputs, {len(outputs)} outputs"
        )
    if None in inputs[0].shape[1:]:
        raise ValueError(
            "the model's input must have a fixed size, but for the batch: rebuild it "
            f"with one. Received: input shape={tuple(inputs[0].shape)}"
        )
    return model if _is_plain_float32(model) else _float32_copy(model)


def _ends(model: keras.Model) -> tuple[list[Any], list[Any]]:
    try:
        return keras.tree.flatten(model.inputs), keras.tree.flatten(model.outputs)
    except (AttributeError, ValueError):
        raise ValueError(
            "the model has no known inputs: build it as a functional or Sequential "
            f"model, or call it once. Received: {type(model).__name__} {model.name!r}"
        ) from None


def _strip(model: keras.Model) -> keras.Model:
    from str_keras.stripping import strip

    # A SoftThreshold may sit anywhere inside; its logit is among the weights.
    sparse = any(is_threshold_state(weight) for weight in model.weights)
    return strip(model) if sparse or isinstance(model, SubstitutedModel) else model


def _layers(layer: Any) -> list[Any]:
    children = list(getattr(layer, "layers", []))
    if isinstance(layer, keras.layers.Wrapper):
        children.append(layer.layer)
    return [layer, *(found for child in children for found in _layers(child))]


def _is_plain_float32(model: keras.Model) -> bool:
    # Variables of a MirroredStrategy cannot be frozen; a copy's can.
    return all(layer.compute_dtype == "float32" for layer in _layers(model)) and all(
        w.dtype != "float64"
        and not isinstance(w.value, tf.distribute.DistributedValues)
        for w in model.weights
    )


def _with_float32(config: Any) -> Any:
    """A layer's config with all float dtype policies in it, nested too, float32."""
    if isinstance(config, list):
        return [_with_float32(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") in ("DTypePolicy", "DTypePolicyMap"):
        return "float32" if "float" in str(config["config"]) else config
    plain = {key: _with_float32(value) for key, value in config.items()}
    if isinstance(plain.get("dtype"), str) and "float" in plain["dtype"]:
        plain["dtype"] = "float32"
    return plain


def _float32_copy(model: keras.Model) -> keras.Model:
    def clone(layer: Any) -> Any:
        return type(layer).from_config(_with_float32(layer.get_config()))

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
        copy.set_weights(model.get_weights())
        finish_copy(copy)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            "Keras cannot copy the model to float32: build it as a functional or "
            f"Sequential model under the float32 policy. {str(error).splitlines()[0]}"
        ) from error
    finally:
        keras.config.set_dtype_policy(policy)
    return copy


def predict(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """The model's outputs in inference mode, computed on the CPU in full float32."""
    # A GPU may round a convolution's inputs to TF32: 1e-3, more than the tolerance.
    with tf.device("CPU:0"):
        chunks = [
            np.asarray(model(inputs[i : i + _CHUNK], training=False))
            for i in range(0, len(inputs), _CHUNK)
        ]
    return np.concatenate(chunks)


def kernel_counts(model: keras.Model) -> list[tuple[int, int]]:
    """`(elements, non-zeros)` of each weight of two or more dimensions."""
    kernels = [w.numpy() for w in model.weights if len(w.shape) >= 2]
    return [(k.size, int(np.count_nonzero(k))) for k in kernels]
