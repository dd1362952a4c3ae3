"""What breaks each rule of XNNPACK's sparse inference, and what it then does.

A case is a model, or a file, its verdict where sparse kernels are on, and the rule.
"""

import functools

import flatbuffers
import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from sparse_models import conv, depthwise, excite, network, pooled, prune, stem
from sparse_models import to_tflite as convert

from str_keras.export import rewrite
from str_keras.export.flatbuffer import read_model

layers, ops = keras.layers, keras.ops


def op(function):
    return lambda x: layers.Lambda(function)(x)


def keep(x):
    return layers.GlobalAveragePooling2D(keepdims=True)(x)


def conv_head(x):
    return layers.Flatten()(conv(keep(x), 10, activation=None))


def two_heads(x):
    other = layers.Flatten()(conv(x, 2, activation=None))
    return layers.Concatenate()([pooled(x), other])


def shuffled(x):
    x = conv(x, 16, activation=None)
    return op(lambda t: keras.ops.nn.depth_to_space(t, 2))(x)


SPARSE = {
    "passing": lambda: network(),
    "5x5": lambda: network(
        first=lambda x: depthwise(x, 5), second=lambda x: depthwise(x, 5, 2)
    ),
    "two to one": lambda: network(size=(48, 64)),
    "residual": lambda: network(inside=lambda x: layers.Add()([x, conv(x, 200)])),
    "squeezed": lambda: network(inside=excite, behind=excite, size=(48, 64)),
    "hard swish": lambda: network(inside=layers.Activation("hard_swish")),
    "squared": lambda: network(inside=lambda x: layers.Multiply()([x, x])),
    "maximum": lambda: network(inside=op(lambda x: ops.maximum(x, 0.1))),
    "upsampled": lambda: network(
        inside=layers.UpSampling2D(2, interpolation="bilinear")
    ),
    "sum": lambda: network(head=op(lambda x: ops.sum(x, (1, 2)))),
    "averaged over channels too": lambda: network(
        head=op(lambda x: ops.mean(x, (2, 3)))
    ),
    "one channel between": lambda: network(inside=lambda x: conv(conv(x, 1), 200)),
    "one pixel": lambda: network(
        size=16,
        inside=excite,
        second=lambda x: depthwise(depthwise(depthwise(x, 3, 2), 3, 2), 3, 2),
        head=layers.Flatten(),
    ),
}
DENSE = {
    "stem 5x5": (
        lambda: network(stem=lambda x: stem(x, kernel=5, padding=2)),
        "kernel",
    ),
    "stem stride 1": (lambda: network(stem=lambda x: stem(x, strides=1)), "stride"),
    "stem padding": (
        lambda: network(stem=lambda x: stem(x, padding=((0, 1), (0, 1)))),
        "padding",
    ),
    "gray": (lambda: network(channels=1), "channels"),
    "four channels": (lambda: network(channels=4), "channels"),
    "no stem": (lambda: network(stem=layers.Identity()), "entry"),
    "depthwise 7x7": (lambda: network(first=lambda x: depthwise(x, 7)), "kernel"),
    "depthwise dilated": (
        lambda: network(first=lambda x: depthwise(x, dilation_rate=2)),
        "dilation",
    ),
    "depthwise stride 3": (
        lambda: network(first=lambda x: depthwise(x, strides=3)),
        "stride",
    ),
    "depthwise unpadded": (
        lambda: network(first=lambda x: depthwise(x, padding="valid")),
        "padding",
    ),
    "flattened": (
        lambda: network(head=lambda x: layers.Dense(10)(layers.Flatten()(x))),
        "end",
    ),
    "maximal pooling": (lambda: network(head=layers.GlobalMaxPooling2D()), "end"),
    "undelegated": (lambda: network(inside=op(lambda x: ops.flip(x, 1))), "delegated"),
    "subtracted": (
        lambda: network(inside=lambda x: layers.Subtract()([x, conv(x, 200)])),
        "operator",
    ),
    "squeezed by maximum": (
        lambda: network(
            inside=lambda x: excite(x, layers.GlobalMaxPooling2D(keepdims=True))
        ),
        "operator",
    ),
    "read twice": (lambda: network(inside=lambda x: layers.Add()([x, x])), "twice"),
}
WRONG = {
    "odd extents": (lambda: network(size=50), "padding"),
    "depthwise same": (
        lambda: network(second=lambda x: depthwise(x, strides=2, padding="same")),
        "padding",
    ),
    "multiplier": (
        lambda: network(second=lambda x: depthwise(x, strides=2, depth_multiplier=2)),
        "multiplier",
    ),
    "maximal pool inside": (
        lambda: network(inside=layers.MaxPooling2D(2)),
        "operator",
    ),
    "1x1 stride 2": (lambda: network(inside=lambda x: conv(x, 200, 1, 2)), "pointwise"),
    "1x1 groups": (lambda: network(inside=lambda x: conv(x, 200, groups=2)), "groups"),
    "3x3 inside": (lambda: network(inside=lambda x: conv(x, 8, 3)), "stride"),
    "constant second": (
        lambda: network(
            inside=op(
                lambda x: x * np.linspace(0.5, 1, 200, dtype="f4").reshape(1, 1, 1, -1)
            )
        ),
        "constant",
    ),
    "constant of rank 0": (lambda: network(inside=op(lambda x: x + 0.5)), "rank"),
    "two heads": (lambda: network(head=two_heads), "operator"),
    "no end": (lambda: network(inside=excite, head=lambda x: x), "output"),
    "pooled by rows": (
        lambda: network(head=op(lambda x: ops.mean(x, 1))),
        "pooling",
    ),
    "pooled output": (lambda: network(head=keep), "pooled_output"),
    "activation of pooled": (
        lambda: network(inside=lambda x: excite(x, between=layers.Activation("tanh"))),
        "pooled_head",
    ),
}
REFUSED = {
    "1x1 head": (lambda: network(head=conv_head), "pooled_head"),
    "sum with pooled": (
        lambda: network(inside=op(lambda x: x + ops.mean(x, (1, 2), keepdims=True))),
        "pooled_head",
    ),
}
INPUTS = {
    "two to one": (48, 64, 3),
    "squeezed": (48, 64, 3),
    "one pixel": (16, 16, 3),
    "odd extents": (50, 50, 3),
    "gray": (48, 48, 1),
    "four channels": (48, 48, 4),
}
MODELS = {
    **{name: (build, "sparse", "") for name, build in SPARSE.items()},
    **{name: (build, "dense", rule) for name, (build, rule) in DENSE.items()},
    **{name: (build, "wrong", rule) for name, (build, rule) in WRONG.items()},
    **{name: (build, "refused", rule) for name, (build, rule) in REFUSED.items()},
}


@functools.cache
def model(name):
    keras.utils.set_random_seed(0)
    return prune(MODELS[name][0]())


def model_of(name):
    """The model that a case is of."""
    return model(name if name in MODELS else "passing")


def input_shape(name):
    return INPUTS.get(name, (48, 48, 3))


def with_zeros(zeros, **options):
    """The passing model with a number of zeros; its file."""
    keras.utils.set_random_seed(0)
    return convert(prune(network(), zeros), **options)


def with_sparse_classifier():
    """Of integers, also the fully connected layer stored sparse."""
    keras.utils.set_random_seed(0)
    made = prune(network())
    kernel = made.get_layer("classes").kernel
    zeros = np.random.default_rng(0).random(kernel.shape) < 0.9
    kernel.assign(np.where(zeros, 0, kernel.numpy()))
    return convert(made, weights="int8")


def edit(content, change):
    """A file of which `change(model, subgraph)` changed LiteRT's `ModelT`."""
    model = read_model(content)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def give_out(content):
    """Makes a value of the sparse part an output too."""

    def change(model, subgraph):
        convolutions = [
            operator
            for operator in subgraph.operators
            if operator.builtinOptionsType == schema.BuiltinOptions.Conv2DOptions
        ]
        more = int(convolutions[1].outputs[0])
        subgraph.outputs = [*(int(i) for i in subgraph.outputs), more]
        model.signatureDefs = None

    return edit(content, change)


def with_dynamic_range(content):
    """The second convolution of a dense file by integers, the others stored sparse."""
    kernels = []

    def choose(weight):
        kernels.append(weight.operator)
        is_second = weight.operator == "CONV_2D" and kernels.count("CONV_2D") == 2
        return rewrite.Storage("int8" if is_second else "float32", not is_second)

    def change(model, subgraph):
        (unpacking,) = (
            operator
            for operator in subgraph.operators
            if operator.builtinOptionsType == schema.BuiltinOptions.DequantizeOptions
        )
        subgraph.operators.remove(unpacking)
        for operator in subgraph.operators:
            operator.inputs = [
                int(unpacking.inputs[0]) if i == unpacking.outputs[0] else int(i)
                for i in operator.inputs
            ]

    return edit(rewrite.store(content, choose), change)


def with_float32_biases(content):
    """The bias of each convolution of a float16 file as float32 zeros."""

    def change(model, subgraph):
        for operator in subgraph.operators:
            if operator.builtinOptionsType != schema.BuiltinOptions.Conv2DOptions:
                continue
            size = int(subgraph.tensors[int(operator.outputs[0])].shape[3])
            buffer, tensor = schema.BufferT(), schema.TensorT()
            buffer.data = np.frombuffer(np.zeros(size, "f4").tobytes(), np.uint8)
            tensor.shape, tensor.buffer = [size], len(model.buffers)
            tensor.name = b"bias"
            model.buffers.append(buffer)
            subgraph.tensors.append(tensor)
            inputs = [int(i) for i in operator.inputs]
            operator.inputs = [*inputs[:2], len(subgraph.tensors) - 1]

    return edit(content, change)


ZEROS = 42_666  # two thirds of the 64,000 weights of `network`
FILES = {
    "two thirds of zeros": (lambda: with_zeros(ZEROS), "dense", "zeros"),
    "one zero more": (lambda: with_zeros(ZEROS + 1), "sparse", ""),
    "stored dense": (lambda: with_zeros(0.9, sparse=False), "dense", "storage"),
    "float16": (lambda: with_zeros(0.9, weights="float16"), "sparse", ""),
    "int8": (lambda: with_zeros(0.9, weights="int8"), "dense", "type"),
    "sparse int8 classifier": (with_sparse_classifier, "refused", "sparse_int8"),
    "dynamic range": (
        lambda: with_dynamic_range(content("stored dense")),
        "dense",
        "type",
    ),
    "given out": (lambda: give_out(content("passing")), "wrong", "shared"),
    "float32 biases": (
        lambda: with_float32_biases(content("float16")),
        "sparse",
        "bias",
    ),
}
CASES = {**MODELS, **FILES}
WITH_KERNELS = ("arm", "wasm", "x86_no_avx")


@functools.cache
def content(name):
    """The file of a case."""
    return FILES[name][0]() if name in FILES else convert(model(name))


def verdicts(name):
    """What is expected: by target, kind and rule."""
    _, kind, rule = CASES[name]
    if rule == "bias":  # an error of LiteRT.js alone
        expected = dict.fromkeys(WITH_KERNELS, ("sparse", "")) | {
            "wasm": ("wrong", rule)
        }
    else:
        expected = dict.fromkeys(WITH_KERNELS, (kind, rule))
    if kind == "refused":
        expected["wasm"] = ("wrong", rule)
    if rule == "pooled_output":  # of a wrong shape, but LiteRT.js tells the file's
        expected["wasm"] = ("sparse", "")
    everywhere = rule == "sparse_int8"
    return expected | {"x86_avx": (kind, rule) if everywhere else ("dense", "cpu")}
