"""STR in PyTorch, from the published formula: what the Keras side is compared with.

`python torch_side.py CASE IN.npz OUT.npz`, where Python needs NumPy and PyTorch alone.
CASE is a key of `CASES`. Read are seed and pruned, from which the weights are drawn,
and images, whose dtype all is done in; what else is read and written stands at `train`
and `infer`. Modules and parameters are named as in the authors' checkpoints.
"""

import itertools
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MOBILENET_WIDTHS = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
MOBILENET_STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


class STRConv2d(nn.Conv2d):
    """Convolution with sign(w) relu(|w| - sigmoid(s)), one trainable s."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sparseThreshold = nn.Parameter(torch.full((1, 1), -math.inf))

    def sparse_weight(self):
        w = self.weight
        return torch.sign(w) * torch.relu(w.abs() - torch.sigmoid(self.sparseThreshold))

    def forward(self, x):
        w = self.sparse_weight()
        return F.conv2d(x, w, None, self.stride, self.padding, groups=self.groups)


def share_threshold(network):
    """Gives all convolutions the first one's s: one threshold for the network."""
    first, *others = modules(network, STRConv2d)
    for conv in others:
        conv.sparseThreshold = first.sparseThreshold
    return network


def make_conv(kind, cin, cout, size, stride=1, groups=1):
    return kind(cin, cout, size, stride, size // 2, groups=groups, bias=False)


class ConvNet(nn.Module):
    """Two convolutions, the second with a stride, and a classifier."""

    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = make_conv(STRConv2d, 3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = make_conv(STRConv2d, 8, 12, 3, 2), nn.BatchNorm2d(12)
        self.relu = nn.ReLU()
        self.fc = make_conv(STRConv2d, 12, classes, 1)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


class Residual(nn.Module):
    """A block of ResNet v1.5: the bottleneck's stride is on its 3x3 convolution."""

    def __init__(self, kind, expansion, cin, width, stride):
        super().__init__()
        cout = width * expansion
        shapes = [(cin, width, 3, stride), (width, width, 3, 1)]
        if expansion == 4:
            shapes = [
                (cin, width, 1, 1),
                (width, width, 3, stride),
                (width, cout, 1, 1),
            ]
        self.depth = len(shapes)
        for i, shape in enumerate(shapes, 1):
            self.add_module(f"conv{i}", make_conv(kind, *shape))
            self.add_module(f"bn{i}", nn.BatchNorm2d(shape[1]))
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(
                make_conv(kind, cin, cout, 1, stride), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = self.relu(y) if i < self.depth else y
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """The first block of ResNet50's second stage, stride 2, and a classifier."""

    def __init__(self, classes):
        super().__init__()
        self.layer2 = nn.Sequential(Residual(STRConv2d, 4, 256, 128, 2))
        self.fc = make_conv(STRConv2d, 512, classes, 1)

    def forward(self, x):
        return self.fc(self.layer2(x).mean((2, 3), keepdim=True)).flatten(1)


class ResNet(nn.Module):
    """The authors' ResNet; its classifier is a bias-free 1x1 convolution.

    Args:
        expansion: 1 for basic blocks, 4 for bottlenecks.
        num_blocks: Of the four stages.
        classes: Number of logits.
        kind: Class of the convolutions: `nn.Conv2d` makes the dense network.
    """

    def __init__(self, expansion, num_blocks, classes, kind=STRConv2d):
        super().__init__()
        self.conv1, self.bn1 = make_conv(kind, 3, 64, 7, 2), nn.BatchNorm2d(64)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        cin = 64
        for stage, repeats in enumerate(num_blocks):
            width, blocks = 64 << stage, []
            for i in range(repeats):
                stride = 2 if stage and not i else 1
                blocks.append(Residual(kind, expansion, cin, width, stride))
                cin = width * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = make_conv(kind, cin, classes, 1)

    def forward(self, x):
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


class MobileNet(nn.Module):
    """The authors' MobileNetV1.

    Args:
        alpha: Width.
        classes: Number of logits.
        kind: Class of the convolutions: `nn.Conv2d` makes the dense network.
        num_blocks: How many depthwise-separable blocks.
        stride: Of the first convolution.
    """

    def __init__(self, alpha, classes, kind=STRConv2d, num_blocks=13, stride=2):
        super().__init__()

        def conv_bn(cin, cout, size, stride, groups=1):
            conv = make_conv(kind, cin, cout, size, stride, groups)
            return conv, nn.BatchNorm2d(cout), nn.ReLU()

        widths = [int(alpha * width) for width in MOBILENET_WIDTHS[: num_blocks + 1]]
        blocks = [nn.Sequential(*conv_bn(3, widths[0], 3, stride))]
        pairs = itertools.pairwise(widths)
        for (cin, cout), stride in zip(pairs, MOBILENET_STRIDES, strict=False):
            depthwise = conv_bn(cin, cin, 3, stride, groups=cin)
            blocks.append(nn.Sequential(*depthwise, *conv_bn(cin, cout, 1, 1)))
        self.model = nn.Sequential(*blocks)
        self.fc = make_conv(kind, widths[-1], classes, 1)

    def forward(self, x):
        return self.fc(self.model(x).mean((2, 3), keepdim=True)).flatten(1)


def modules(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


def randomize_batch_norm(network):
    """Scales and shifts as after training: 1 and 0 would hide a mistake."""
    for norm in modules(network, nn.BatchNorm2d):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)


def prune(network, lowest, highest):
    """Sets each s where a share of its kernels, drawn between the two, is pruned."""
    weights = {}
    for conv in modules(network, STRConv2d):
        sizes = conv.weight.detach().abs().flatten()
        weights.setdefault(conv.sparseThreshold, []).append(sizes)
    for s, kernels in weights.items():
        share = lowest + (highest - lowest) * torch.rand(()).item()
        sizes = torch.cat(kernels)
        rank = round(share * sizes.numel())
        # kthvalue, as torch.quantile refuses more than 2**24 values.
        threshold = (sizes.kthvalue(rank)[0] + sizes.kthvalue(rank + 1)[0]) / 2
        s.data.fill_(torch.logit(threshold))


def settle_batch_norm(network, images):
    """One batch with momentum 1: statistics that fit the weights."""
    norms = modules(network, nn.BatchNorm2d)
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    for norm in norms:
        norm.momentum = 0.1


def state(network, prefix=""):
    """Copies of all parameters and running statistics, as arrays.

    A parameter that several modules share is there once, by its first name.
    """
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    return {
        f"{prefix}{name}": tensor.numpy(force=True).copy()
        for name, tensor in named
        if not name.endswith("num_batches_tracked")
    }


def learning_rate(step, peak, steps_per_epoch, epochs, warmup_epochs):
    """The paper's: a linear warm-up, then a half cosine, constant inside an epoch."""
    epoch = step // steps_per_epoch
    if epoch < warmup_epochs:
        return peak * (epoch + 1) / warmup_epochs
    angle = math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return peak / 2 * (1 + math.cos(angle))


def count_values(network, images):
    """How many values a channel of each batch norm averages: n of n / (n - 1)."""
    counts = {}

    def hook(name):
        def count(module, inputs, output):
            counts[f"count/{name}"] = output.numel() // output.shape[1]

        return count

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        network.eval()(images)
    for handle in handles:
        handle.remove()
    return counts


def watch_kinks(network):
    """A list that gets, for each ReLU called, how near to 0 its inputs come."""
    distances = []

    def watch(module, inputs):
        distances.append(inputs[0].detach().abs().min().item())

    for relu in modules(network, nn.ReLU):
        relu.register_forward_pre_hook(watch)
    return distances


def descend(network, given, images, rates):
    """Trains by torch.optim.SGD; arrays of what happened, as of `train`."""
    momentum, decay = given["momentum"].item(), given["decay"].item()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1.0, momentum=momentum, weight_decay=decay
    )
    losses, outputs, gradients = [], [], {}
    smoothing = given["smoothing"].item()
    for batch, labels, rate in zip(images, given["labels"], rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        logits = network(batch)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss.backward()
        gradients = gradients or {
            f"gradient/{name}": parameter.grad.numpy().copy()
            for name, parameter in network.named_parameters()
        }
        optimizer.step()
        losses.append(loss.item())
        outputs.append(logits.detach().numpy())
    return {**gradients, "losses": np.array(losses), "logits": np.array(outputs)}


def train(network, given):
    """Evaluates the first batch, then trains.

    Reads: images (steps, batch, height, width, channels), labels (steps, batch),
    momentum, decay, smoothing, and the four numbers of `learning_rate`; rates (steps,),
    if there, take the place of the last.

    Writes: initial/NAME and final/NAME of all state; gradient/NAME of the first step;
    losses and logits of training; evaluated, logits before it; rates; count/NAME of
    `count_values`; kink, the smallest of `watch_kinks`.
    """
    images = given["images"].permute(0, 1, 4, 2, 3)
    numbers = ("peak", "steps_per_epoch", "epochs", "warmup_epochs")
    numbers = {name: given[name].item() for name in numbers}
    rates = [learning_rate(step, **numbers) for step in range(len(images))]
    found = {**state(network, "initial/"), **count_values(network, images[0])}
    with torch.no_grad():
        evaluated = network.eval()(images[0]).numpy()
    found |= {"rates": np.array(rates), "evaluated": evaluated}
    kinks = watch_kinks(network)
    rates = given["rates"].tolist() if "rates" in given else rates
    found |= descend(network.train(), given, images, rates)
    return {**found, **state(network, "final/"), "kink": min(kinks)}


def infer(network, given):
    """Gives logits.

    Reads: images (batch, height, width, channels).

    Writes: initial/NAME of all state; logits.
    """
    images = given["images"].permute(0, 3, 1, 2)
    settle_batch_norm(network, images)
    with torch.no_grad():
        logits = network.eval()(images).numpy()
    return {**state(network, "initial/"), "logits": logits}


CASES = {
    "convnet": (train, lambda: ConvNet(5)),
    "shared": (train, lambda: share_threshold(ConvNet(5))),
    "bottleneck": (train, lambda: Bottleneck(5)),
    "separable": (train, lambda: MobileNet(0.25, 5, num_blocks=2, stride=1)),
    "resnet50": (infer, lambda: ResNet(4, (3, 4, 6, 3), 1000)),
    "mobilenetv1": (infer, lambda: MobileNet(1.0, 1000)),
}


def main(case, source, target):
    work, make = CASES[case]
    with np.load(source) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files}
    # Drawn in float32, so that the weights are the same in either dtype.
    torch.manual_seed(given["seed"].item())
    network = make()
    randomize_batch_norm(network)
    prune(network, *given["pruned"].tolist())
    np.savez(target, **work(network.to(given["images"].dtype), given))


if __name__ == "__main__":
    main(*sys.argv[1:])
