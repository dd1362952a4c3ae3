"""The networks of `torch_side.py` in Keras, by public names, and their training."""

import functools

import keras
import numpy as np
from keras import layers
from parity import exchange

import str_keras as stk

BATCH, STEPS, CLASSES, SMOOTHING = 8, 20, 5, 0.1
SCHEDULE = {"peak": 0.03, "steps_per_epoch": 2, "epochs": 10, "warmup_epochs": 3}
# So strong a decay moves s within 20 steps about as far as the task does.
MOMENTUM, DECAY = 0.875, 0.02
PRUNED = (0.2, 0.7)  # least and largest share of a kernel, at the start
GRADIENT_RATE = 1024.0

numpy = keras.ops.convert_to_numpy


def conv_bn(x, filters, stride, number, wrap):
    padding = "same"
    if stride == 2:  # where "same" would pad one side alone
        x, padding = layers.ZeroPadding2D(1)(x), "valid"
    conv = layers.Conv2D(
        filters, 3, stride, padding, use_bias=False, name=f"conv{number}"
    )
    norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"bn{number}")
    return layers.ReLU()(norm(wrap(conv)(x)))


def convnet(wrap=stk.SoftThreshold):
    """Layers wrapped one by one."""
    image = keras.Input((8, 8, 3))
    x = conv_bn(conv_bn(image, 8, 1, 1, wrap), 12, 2, 2, wrap)
    classifier = layers.Dense(CLASSES, use_bias=False, name="fc")
    logits = wrap(classifier)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, logits)


def shared():
    """The same net with one s for all of its kernels."""
    return stk.sparsify(convnet(wrap=lambda layer: layer), granularity="network")


def cut(model, first, last):
    """The model's layers from `first` to `last`, and a new classifier."""
    x = layers.GlobalAveragePooling2D()(model.get_layer(last).output)
    logits = layers.Dense(CLASSES, use_bias=False, name="fc")(x)
    return keras.Model(model.get_layer(first).input, logits)


def bottleneck():
    """ResNet50's own block: stride on the 3x3, a projection beside it."""
    whole = stk.models.ResNet50((32, 32, 3))
    block = cut(whole, "layer2_0_conv1", "layer2_0_relu3")
    # Of a smaller input than any ResNet50 gives: fewer values, fewer near a kink.
    block = keras.models.clone_model(block, input_tensors=keras.Input((4, 4, 256)))
    return stk.sparsify(block)


def separable():
    """MobileNetV1's stem and first two blocks, the second with a stride."""
    whole = stk.models.MobileNetV1(0.25, (8, 8, 3), stem="small")
    return stk.sparsify(cut(whole, "conv1", "block2_pointwise_relu"))


# Maker, shape of an input, seed of the weights. With that seed every input of a ReLU
# stays off 0: where one is nearer than rounding reaches, float32 picks a side, and two
# runs of PyTorch itself part there by more than the tolerance.
NETWORKS = {
    "convnet": (convnet, (8, 8, 3), 25),
    "shared": (shared, (8, 8, 3), 16),
    "bottleneck": (bottleneck, (4, 4, 256), 0),
    "separable": (separable, (8, 8, 3), 20),
}


def fit(model, optimizer, images, labels):
    """Trains one epoch in the order given; returns the mean loss."""
    # A loss computes in floatx unless told, whatever the policy.
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=SMOOTHING, dtype=images.dtype.name
    )
    model.compile(optimizer, loss)
    images = images.reshape(-1, *images.shape[-3:])
    targets = np.eye(CLASSES)[labels.reshape(-1)]
    history = model.fit(images, targets, batch_size=BATCH, shuffle=False, verbose=0)
    return history.history["loss"][-1]


def compare(model, state):
    """{PyTorch's name: (our present value, PyTorch's array)} in float64."""
    return {
        name: (numpy(variable).astype("float64"), array.astype("float64"))
        for name, (variable, array) in exchange.pair(model, state).items()
    }


def biased(torch, name):
    """PyTorch's final array; a running variance as Keras averages it.

    PyTorch normalizes by the variance over n and averages that over n - 1; Keras
    averages the one that it uses. Of the first value both keep 0.9**STEPS.
    """
    final, initial = torch[f"final/{name}"], torch[f"initial/{name}"]
    if not name.endswith("running_var"):
        return final
    n = torch[f"count/{name.removesuffix('.running_var')}"]
    kept = 0.9**STEPS * initial
    return kept + (final - kept) * (n - 1) / n


def torch_run(name, dtype, schedule):
    """The batches, and what PyTorch makes of them."""
    _, shape, seed = NETWORKS[name]
    rng = np.random.default_rng(0)
    # Of float32 in either run: `fit` hands them over so, whatever the policy.
    images = rng.normal(size=(STEPS, BATCH, *shape)).astype("float32")
    given = {"images": images.astype(dtype), "seed": seed, "pruned": PRUNED}
    given["labels"] = rng.integers(CLASSES, size=(STEPS, BATCH))
    given |= {"momentum": MOMENTUM, "decay": DECAY, "smoothing": SMOOTHING, **SCHEDULE}
    if dtype == "float64":  # Keras' rates are float32, and beside 1e-8 that would show
        given["rates"] = stk.schedules.evaluate(schedule, STEPS)
    return given["images"], given["labels"], exchange.run_torch(name, given)


@functools.cache
def train_both(name, dtype):
    """One run of either side: pairs of ours and PyTorch's under what they are."""
    schedule = stk.schedules.create("cosine", **SCHEDULE)
    images, labels, torch = torch_run(name, dtype, schedule)
    initial = exchange.part(torch, "initial")
    keras.config.set_dtype_policy(dtype)
    model = NETWORKS[name][0]()
    assert {weight.dtype for weight in model.weights} == {dtype}

    exchange.copy_from_torch(initial, model)
    start = {key: value for key, (value, _) in compare(model, initial).items()}
    evaluated = numpy(model(images[0], training=False))
    trained = numpy(model(images[0], training=True))

    exchange.copy_from_torch(initial, model)
    # One plain step shows the gradients; at this rate they dwarf the values.
    fit(model, keras.optimizers.SGD(GRADIENT_RATE), images[:1], labels[:1])
    stepped = compare(model, exchange.part(torch, "gradient"))

    exchange.copy_from_torch(initial, model)
    optimizer = stk.optimizers.SGD(schedule, MOMENTUM, weight_decay=DECAY)
    loss = fit(model, optimizer, images, labels)
    return {
        "start": start,
        "logits": {
            "evaluated": (evaluated, torch["evaluated"]),
            "trained": (trained, torch["logits"][0]),
        },
        "gradients": {
            key: ((start[key] - end) / GRADIENT_RATE, gradient)
            for key, (end, gradient) in stepped.items()
        },
        "final": compare(model, {key: biased(torch, key) for key in initial}),
        "rates": (stk.schedules.evaluate(schedule, STEPS), torch["rates"]),
        "loss": (loss, torch["losses"].mean()),
        "kink": torch["kink"].item(),
        "sparsity": {row.path: row.sparsity for row in stk.summary(model).rows},
    }
