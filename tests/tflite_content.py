"""Bytes of .tflite files: converted, and run apart from the code under test."""

import numpy as np
from ai_edge_litert import interpreter

from str_keras.export import convert

PLAIN = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def to_tflite(model, batch_size=1):
    (content,) = convert.convert(
        model,
        weights="float32",
        encodings=(False,),
        batch_size=batch_size,
        calibration=None,
        normalize=None,
    )
    return content


def start(content, **options):
    runtime = interpreter.Interpreter(model_content=content, **options)
    runtime.allocate_tensors()
    return runtime


def run(content, **options):
    runtime = start(content, **options)
    (details,) = runtime.get_input_details()
    x = np.random.default_rng(0).normal(size=details["shape"]).astype("float32")
    runtime.set_tensor(details["index"], x)
    runtime.invoke()
    return [runtime.get_tensor(d["index"]) for d in runtime.get_output_details()]
