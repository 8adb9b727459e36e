"""Compare a network run by us with the same network in PyTorch.

    peer_dump ARCH | python3 torch_nets.py

The networks are written down here from their papers and published code, not from our zoo; their state_dict keys
are what our tensor names must be. peer_dump.c describes the stream on stdin: the parameters, a batch, the
gradient of the logits, and then, for evaluation mode (running statistics) and training mode (batch statistics),
what our oracle (float64, "ref.") and our engine (float32, "float." and "folded.") made of them. Every number of PyTorch's is
computed in float64. One line per comparison that fails, and a summary; status 1 when one did.
"""
import sys

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

# One thread: with Debian's serial OpenBLAS as its BLAS, PyTorch calls dgemm from several threads at once, and that
# build then hands two of them the same work buffer and returns wrong products.
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# Two summation orders in float64 differ by about 1e-15 times a growth of a few hundred over 50 layers.
REF_BOUND = 1e-8
# float32 has 6e-8 per operation; 53 layers with batch statistics over 16 values (ResNet50's last stage here) make
# 7e-5 of that in the logits, and PyTorch in float32 is off by as much. Then some ReLU stands on the other side of
# its kink and changes gradients by whole terms, hence a cosine there (worst seen 0.9984, ResNet50 with Winograd's
# transforms, whose rounding is about three times that of plain sums).
FLOAT_LOGITS_BOUND = 1e-4
FLOAT_COSINE = 0.995


def conv(cin, cout, k, stride=1):
    return nn.Conv2d(cin, cout, k, stride=stride, padding=(k - 1) // 2, bias=False)


class VGG(nn.Module):
    def __init__(self, widths, bn, cin=3, classes=10):
        super().__init__()
        layers = []
        for w in widths:
            if w == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(conv(cin, w, 3))
            if bn:
                layers.append(nn.BatchNorm2d(w))
            layers.append(nn.ReLU())
            cin = w
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(4 * cin, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)
        )

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), (2, 2)).flatten(1))


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, cout, 3, stride), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = conv(cout, cout, 3), nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNetSmall(nn.Module):
    """CIFAR ResNets of basic blocks: widths double from stage to stage."""

    def __init__(self, cin, width, stem_stride, stages, blocks, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 3, stem_stride), nn.BatchNorm2d(width)
        self.stages = []
        cin = width
        for s in range(stages):
            cout = width * 2**s
            stage = []
            for b in range(blocks):
                stage.append(BasicBlock(cin, cout, 2 if s > 0 and b == 0 else 1))
                cin = cout
            setattr(self, "layer%d" % (s + 1), nn.Sequential(*stage))
            self.stages.append("layer%d" % (s + 1))
        self.linear = nn.Linear(cin, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for s in self.stages:
            x = getattr(self, s)(x)
        return self.linear(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv(cout, cout, 3)
        self.convShortcut = conv(cin, cout, 1, stride) if cin != cout else None

    def forward(self, x):
        a = F.relu(self.bn1(x))
        h = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return h + (x if self.convShortcut is None else self.convShortcut(a))


class WideStage(nn.Module):
    def __init__(self, cin, cout, blocks, stride):
        super().__init__()
        self.layer = nn.Sequential(
            *[WideBlock(cin if b == 0 else cout, cout, stride if b == 0 else 1) for b in range(blocks)]
        )

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widen, classes=10):
        super().__init__()
        n = (depth - 4) // 6
        w = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = conv(3, w[0], 3)
        self.block1 = WideStage(w[0], w[1], n, 1)
        self.block2 = WideStage(w[1], w[2], n, 2)
        self.block3 = WideStage(w[2], w[3], n, 2)
        self.bn1, self.fc = nn.BatchNorm2d(w[3]), nn.Linear(w[3], classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, cin, width, stride, first):
        super().__init__()
        cout = 4 * width
        self.conv1, self.bn1 = conv(cin, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, cout, 1), nn.BatchNorm2d(cout)
        self.downsample = nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout)) if first else None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    def __init__(self, classes=1000):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        cin = 64
        for s, blocks in enumerate((3, 4, 6, 3)):
            stage = []
            for b in range(blocks):
                stage.append(Bottleneck(cin, 64 << s, 2 if s > 0 and b == 0 else 1, b == 0))
                cin = 4 * (64 << s)
            setattr(self, "layer%d" % (s + 1), nn.Sequential(*stage))
        self.fc = nn.Linear(cin, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


NETS = {
    "vgg6_bn": lambda: VGG([64, 64, "M", 128, 128, "M", 256, 256, "M"], True),
    "vgg11": lambda: VGG([64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512], False),
    "vgg16_bn": lambda: VGG(
        [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512], True
    ),
    "resnet18": lambda: ResNetSmall(3, 64, 1, 4, 2),
    "resS": lambda: ResNetSmall(1, 16, 2, 3, 1),
    "wrn_28_4": lambda: WideResNet(28, 4),
    "ResNet50": lambda: ResNet50(),
}


def load(arch, path, dtype):
    """The network whose state_dict is in a file, in evaluation mode, its parameters fixed; any number of channels."""
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in torch.load(path).items()}
    net, first = NETS[arch](), next(v for v in state.values() if v.dim() == 4)
    name, stem = next((k, m) for k, m in net.named_modules() if isinstance(m, nn.Conv2d))
    owner = net.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], conv(first.shape[1], stem.out_channels, stem.kernel_size[0], stem.stride[0]))
    net.load_state_dict(state)
    for p in net.parameters():
        p.requires_grad_(False)
    return net.eval()


class Stream:
    """Lines of text; a line "array NAME f4|f8 D0 D1 ..." is followed by that array's bytes."""

    def __init__(self, fp):
        self.fp = fp

    def next(self):
        words = self.fp.readline().decode().split()
        if not words:
            return None, None
        if words[0] != "array":
            return words[0], words[1:]
        shape = [int(d) for d in words[3:]]
        dtype = np.dtype("<" + words[2])
        size = int(np.prod(shape)) * dtype.itemsize
        data = self.fp.read(size)
        if len(data) != size:
            sys.exit("torch_nets: the stream ends in array %s" % words[1])
        return words[1], np.frombuffer(data, dtype).reshape(shape)


class Verdict:
    def __init__(self):
        self.failures = 0
        self.worst = {}

    def check(self, mode, name, value, bound, below):
        kind = (mode, name.split(".")[0], "error" if below else "cosine")
        worse = max if below else min
        self.worst[kind] = worse(value, self.worst.get(kind, value))
        if not (value < bound if below else value > bound):
            self.failures += 1
            print("FAILED %s %s: %.3g, bound %g" % (mode, name, value, bound))


def run(net, mode, x, dlogits):
    """Logits and all gradients by name; running statistics as training mode leaves them."""
    net.train(mode == "train")
    net.zero_grad()
    x = x.clone().requires_grad_(True)
    logits = net(x)
    logits.backward(dlogits)
    out = {"logits": logits.detach(), "grad.input": x.grad}
    for name, p in net.named_parameters():
        out["grad." + name] = p.grad
    if mode == "train":
        for name, b in net.named_buffers():
            if "running" in name:
                out["stat." + name] = b
    return {k: v.numpy() for k, v in out.items()}


def main():
    stream = Stream(sys.stdin.buffer)
    word, args = stream.next()
    if word != "arch":
        sys.exit("torch_nets: no stream from peer_dump on stdin")
    net = NETS[args[0]]()
    state, batch, theirs, seen, mode = {}, {}, {}, {}, None
    verdict = Verdict()
    while True:
        name, ours = stream.next()
        if name in ("mode", "end"):
            for side, names in seen.items():
                needed = {"logits", "grad.input"} if side == "folded" else set(theirs)
                missing = needed - names
                if missing:
                    sys.exit("torch_nets: %s %s lacks %s" % (mode, side, sorted(missing)))
        if name == "end":
            break
        if name is None:
            sys.exit("torch_nets: the stream ends early")
        if name == "mode":
            mode, seen = ours[0], {"ref": set(), "float": set()}
            if mode == "eval":
                seen["folded"] = set()
            if mode == "eval":
                keys = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
                if keys != set(state):
                    sys.exit("torch_nets: keys differ: %s" % sorted(keys ^ set(state)))
                net.load_state_dict(state, strict=False)
            theirs = run(net, mode, batch["input"], batch["dlogits"])
        elif mode is None:
            part, key = name.split(".", 1)
            value = torch.from_numpy(ours.astype(np.float64))
            if part == "param":
                state[key] = value
            else:
                batch[key] = value
        else:
            side, key = name.split(".", 1)
            want = theirs[key]
            if want.shape != ours.shape:
                sys.exit("torch_nets: %s is %s, PyTorch's %s" % (name, ours.shape, want.shape))
            seen[side].add(key)
            a, b = ours.astype(np.float64).ravel(), want.ravel()
            norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
            if side == "ref":
                verdict.check(mode, name, np.linalg.norm(a - b) / norm_b, REF_BOUND, True)
            elif key.startswith("grad."):
                verdict.check(mode, name, a @ b / (norm_a * norm_b), FLOAT_COSINE, False)
            else:
                verdict.check(mode, name, np.abs(a - b).max() / np.abs(b).max(), FLOAT_LOGITS_BOUND, True)
    for (m, side, kind), value in sorted(verdict.worst.items()):
        print("%s %s: worst %s %s" % (m, side, kind, "%.3g" % value if kind == "error" else "%.9f" % value))
    sys.exit(1 if verdict.failures else 0)


if __name__ == "__main__":
    main()
