"""Golden numbers for swav-model: what PyTorch makes of networks whose weights are a formula.

    python model.py            writes model_*.safetensors beside itself

Needs torch, torchvision and safetensors. The networks are too large to commit, so both sides
compute the weights: see `values`. Everything runs in double precision, so that a difference is
the other side's; the printed figures say how far PyTorch's own single precision is off.
"""

import copy
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent


# -- the formula ------------------------------------------------------------------------------


def values(name, shape):
    """Uniform numbers in [0, 1) that depend on the name and the index alone.

    The FNV-1a hash of the name seeds a SplitMix64 sequence; its upper 24 bits make the number.
    """
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        i = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
        z = np.uint64(seed) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy(u.reshape(shape))


def parameter(name, shape, margin):
    """A parameter or buffer: the uniform numbers, scaled to suit what the name says it is.

    The biases of batch norms keep a margin from zero, so that most values lie clearly on one side
    of their ReLU. Around zero the gradient jumps: without a margin rounding alone flips enough
    ReLUs to change the gradient of a ResNet-50 by 3 %, and no implementation could be held to
    account. Changing the weights by 2e-7 leaves the gradients here as they are to 1e-5.
    """
    u = values(name, shape)
    linear_bias = name in ("projection_head.0.bias", "projection_head.3.bias")
    if name.endswith("running_var"):
        v = 0.5 + u
    elif name.endswith("running_mean") or linear_bias:
        v = 0.1 * (2 * u - 1)
    elif name.endswith("bias"):
        v = 2 * u - 1
        v = torch.where(v < 0, v - margin, v + margin)
    elif len(shape) == 4:
        v = (2 * u - 1) * math.sqrt(6 / (shape[1] * shape[2] * shape[3]))
    elif len(shape) == 2:
        v = (2 * u - 1) * math.sqrt(1 / shape[1])
    else:
        v = 0.25 + 0.5 * u
    return v.float().double()


def image(name, shape):
    return ((2 * values(name, shape) - 1) * math.sqrt(3)).float().double()


def probe(name, shape):
    """What the outputs are multiplied with to make a loss."""
    return (2 * values(name, shape) - 1).float().double()


def fill(model, margin):
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = {k: parameter(k, tuple(v.shape), margin) for k, v in state.items()}
    model.load_state_dict(state, strict=False)
    return model


# -- the networks -----------------------------------------------------------------------------


def bn(channels):
    return nn.BatchNorm2d(channels)


class Block(nn.Module):
    def __init__(self, bottleneck, inputs, planes, stride, groups, group_width):
        super().__init__()
        outputs = planes * (4 if bottleneck else 1)
        if bottleneck:
            inner = int(planes * group_width / 64) * groups
            self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
            self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
            self.bn3 = bn(outputs)
        else:
            inner = planes
            self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, 1, 1, bias=False)
            self.conv3 = None
        self.bn1, self.bn2 = bn(inner), bn(inner)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, bn(outputs))
        self.outputs = outputs

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """A ResNet of any width, with torchvision's names and without its classifier."""

    def __init__(self, bottleneck, blocks, width=1.0, groups=1, group_width=64, cifar=False):
        super().__init__()
        base = round(64 * width)
        self.cifar = cifar
        self.conv1 = nn.Conv2d(3, base, *((3, 1, 1) if cifar else (7, 2, 3)), bias=False)
        self.bn1 = bn(base)
        inputs = base
        for stage, count in enumerate(blocks):
            layer = []
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                block = Block(bottleneck, inputs, base * 2**stage, stride, groups, group_width)
                inputs = block.outputs
                layer.append(block)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.dim = inputs

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.cifar:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean((2, 3))


R18, R50 = [2, 2, 2, 2], [3, 4, 6, 3]
BACKBONES = {
    "resnet18": lambda: Backbone(False, R18),
    "resnet50": lambda: Backbone(True, R50),
    "resnext50": lambda: Backbone(True, R50, groups=32, group_width=4),
    "slim50": lambda: Backbone(True, R50, width=0.25),
    "cifar18": lambda: Backbone(False, R18, cifar=True),
}


def agrees_with_torchvision():
    """The networks above are torchvision's, where torchvision has them."""
    peers = {
        "resnet18": torchvision.models.resnet18,
        "resnet50": torchvision.models.resnet50,
        "resnext50": torchvision.models.resnext50_32x4d,
    }
    for name, peer in peers.items():
        ours = fill(BACKBONES[name](), 1).double().eval()
        peer = peer()
        peer.fc = nn.Identity()
        peer.load_state_dict(ours.state_dict())
        peer = peer.double().eval()
        x = image("input.0", (2, 3, 64, 64))
        with torch.no_grad():
            difference = (ours(x) - peer(x)).abs().max().item()
        assert difference < 1e-12, (name, difference)


class Network(nn.Module):
    """Backbone, head and prototypes, with the names of the SwAV authors' checkpoints."""

    def __init__(self):
        super().__init__()
        backbone = Backbone(False, R18, width=0.25, cifar=True)
        for name, child in backbone.named_children():
            self.add_module(name, child)
        self.backbone = [backbone]  # in a list, so that its names do not appear twice
        self.projection_head = nn.Sequential(
            nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16)
        )
        self.prototypes = nn.Module()
        self.prototypes.prototypes0 = nn.Linear(16, 10, bias=False)
        self.prototypes.prototypes1 = nn.Linear(16, 7, bias=False)

    def heads(self):
        return [self.prototypes.prototypes0, self.prototypes.prototypes1]

    def forward(self, groups):
        features = torch.cat([self.backbone[0](x) for x in groups])
        z = F.normalize(self.projection_head(features), dim=1)
        return z, [head(z) for head in self.heads()]


# -- the numbers ------------------------------------------------------------------------------


def strided(tensors, stride):
    """Every stride-th value of the tensors of a dictionary, one after the other by name."""
    flat = torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])
    return flat[::stride].clone()


def statistics(model):
    return {k: v for k, v in model.state_dict().items() if "running_" in k}


def gradients(model):
    return {k: v.grad for k, v in model.named_parameters()}


def backbone_case(model, size, dtype, strides):
    model = model.to(dtype)
    shape = (4, 3, size, size)
    x = [image(f"input.{i}", shape).to(dtype) for i in range(3)]
    out = {}
    with torch.no_grad():
        out["eval"] = model.eval()(x[0])
    model.train()
    x[0].requires_grad_()
    out["train"] = model(x[0])
    (out["train"] * probe("probe", out["train"].shape).to(dtype)).sum().backward()
    out["input_gradient"] = x[0].grad.flatten()[:: strides["input"]]
    out["gradients"] = strided(gradients(model), strides["gradients"])
    with torch.no_grad():
        model(x[1]), model(x[2])
        out["statistics"] = strided(statistics(model), strides["statistics"])
        out["eval_after"] = model.eval()(x[0])
    return out


def network_case(model, dtype):
    model = model.to(dtype).train()
    for head in model.heads():
        head.weight.data = F.normalize(head.weight.data, dim=1)
    groups = [("large", (8, 3, 32, 32)), ("small", (12, 3, 16, 16))]
    groups = [image(f"input.{name}", shape).to(dtype) for name, shape in groups]
    z, scores = model(groups)
    loss = sum((s * probe(f"probe.{i}", s.shape).to(dtype)).sum() for i, s in enumerate(scores))
    loss.backward()
    out = {"embeddings": z, "scores.0": scores[0], "scores.1": scores[1]}
    grads = gradients(model)
    heads = {k: v for k, v in grads.items() if k.startswith(("projection_head", "prototypes"))}
    trunk = {k: v for k, v in grads.items() if k not in heads}
    out["head_gradients"] = strided(heads, 1)
    out["backbone_gradients"] = strided(trunk, 97)
    out["statistics"] = strided(statistics(model), 1)
    return out


def write(name, case, model):
    double = case(copy.deepcopy(model), torch.float64)
    single = case(copy.deepcopy(model), torch.float32)
    print(f"{name}: relative difference of PyTorch's single precision")
    for key, exact in double.items():
        exact = exact.detach()
        error = ((single[key].detach().double() - exact).norm() / exact.norm()).item()
        print(f"    {key:20} {error:.1e}")
    tensors = {k: v.detach().float().contiguous() for k, v in double.items()}
    save_file(tensors, HERE / f"model_{name}.safetensors")


def main():
    torch.manual_seed(0)
    agrees_with_torchvision()
    strides = {
        "resnet18": {"input": 7, "gradients": 2003, "statistics": 1},
        "resnet50": {"input": 7, "gradients": 4001, "statistics": 7},
        "resnext50": {"input": 13, "gradients": 8009, "statistics": 13},
        "slim50": {"input": 13, "gradients": 499, "statistics": 13},
        "cifar18": {"input": 5, "gradients": 4001, "statistics": 7},
    }
    for name, build in BACKBONES.items():
        size = 32 if name == "cifar18" else 64
        case = lambda model, dtype: backbone_case(model, size, dtype, strides[name])
        margin = 1 if name in ("resnet18", "cifar18") else 3
        write(name, case, fill(build().double(), margin))
    write("network", network_case, fill(Network().double(), 1))


if __name__ == "__main__":
    main()
