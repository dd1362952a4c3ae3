"""Small .tflite files whose sparse kernels switch on, and some that fail."""

import functools

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from export_models import fill

from str_keras import data
from str_keras.export import convert

layers = keras.layers
PREPROCESSING = data.Preprocessing(64, "pad", 1.0, (0.5,) * 3, (0.25,) * 3)


def mobile_net(head="dense", size=64):
    """MobileNet's first layers, padded so that XNNPACK takes all of them as sparse.

    Nine of ten weights are zeros, but for the stem's and the depthwise ones.
    """
    inputs = keras.Input((size, size, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False, name="depthwise_stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters, stride in ((64, 1), (128, 2), (128, 1)):
        padding = "same" if stride == 1 else "valid"
        x = x if stride == 1 else layers.ZeroPadding2D(1)(x)
        x = layers.DepthwiseConv2D(3, stride, padding, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    if head == "conv":
        x = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = layers.Flatten()(layers.Conv2D(10, 1, use_bias=False)(x))
    else:
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(10, use_bias=False)(x)
    model = keras.Model(inputs, x)
    fill(model, 0.9, dense="depthwise")
    return model


def samples(count=2, size=64):
    random = np.random.default_rng(1)
    return random.standard_normal((count, size, size, 3), dtype="float32")


@functools.cache
def content(head="dense", weights="float32", sparse=False, batch_size=1):
    """A file as TensorFlow's converter writes it, also what the exporter refuses."""
    keras.utils.set_random_seed(0)
    (written,) = convert.convert(
        mobile_net(head),
        weights=weights,
        encodings=(sparse,),
        batch_size=batch_size,
        calibration=samples(16) if weights == "int8" else None,
        normalize=None,
    )
    return written


def write(directory, *kinds, **options):
    """Files of several kinds, such as "float16 sparse", by their names."""
    paths = {}
    for kind in kinds:
        weights, *sparse = kind.split()
        path = directory / f"{kind.replace(' ', '-')}.tflite"
        path.write_bytes(content(weights=weights, sparse=bool(sparse), **options))
        paths[kind] = path
    return paths


def killer():
    """A sparse file whose indices point far outside: unpacking it ends the process."""
    model = schema.ModelT.InitFromPackedBuf(content(sparse=True), 0)
    for tensor in model.subgraphs[0].tensors:
        if tensor.sparsity is not None:
            level = tensor.sparsity.dimMetadata[-1]
            far = schema.Int32VectorT()
            far.values = [2**30] * len(level.arrayIndices.values)
            level.arrayIndices = far
            level.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def to_tflite(model, batch_size, directory):
    """The converter's file of a model of several outputs, which export refuses."""
    return _converter(model, batch_size, directory).convert()


def of_function(function, *specs):
    """The converter's file of any function of TensorFlow."""
    concrete = tf.function(function).get_concrete_function(*specs)
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def int8_ends(model, directory):
    """A file that takes and gives int8, as other exporters write it."""
    converter = _converter(model, 1, directory)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in samples(16))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _converter(model, batch_size, directory):
    spec = tf.TensorSpec((batch_size, *model.inputs[0].shape[1:]), "float32")
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", lambda x: model(x), input_signature=[spec])
    saved = str(directory / f"saved-{batch_size}")
    archive.write_out(saved, verbose=False)
    return tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=["serve"])
