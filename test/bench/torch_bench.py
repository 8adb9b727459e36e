#!/usr/bin/env python3
"""The engine beside PyTorch, measured in turns: torch_bench.py BENCH_ENGINE NET BATCH SECONDS ROUNDS

For inference, a plain training step and a PGD-10 training step: one measurement of ours, one of PyTorch's, and
so on for ROUNDS rounds; then medians, smallest and largest, and the ratio of each round. PyTorch runs in
a process of its own for every measurement, with as many threads as we use, parameters frozen during the attack
and its allocator's thresholds raised (its faster setting here). Without PyTorch only our figures are printed.
"""
import os
import statistics
import subprocess
import sys
import time

MEASURES = ("infer", "train", "pgd10")


def basic_block(nn, functional, cin, cout, stride):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(cout)
            self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(cout)
            self.shortcut = nn.Identity()
            if stride != 1 or cin != cout:
                self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

        def forward(self, x):
            y = functional.relu(self.bn1(self.conv1(x)))
            return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    return Block()


def network(name):
    """The networks that are compared, and the shape of their images."""
    from torch import nn
    from torch.nn import functional

    def resnet(channels, stem_stride, widths, per_stage):
        width = widths[0]
        layers = [nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for stage, out in enumerate(widths):
            for block in range(per_stage):
                stride = 2 if stage and not block else 1
                layers.append(basic_block(nn, functional, width, out, stride))
                width = out
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

    if name == "resS":
        return resnet(1, 2, (16, 32, 64), 1), (1, 28, 28)
    if name == "resnet18":
        return resnet(3, 1, (64, 128, 256, 512), 2), (3, 32, 32)
    raise SystemExit(f"torch_bench: no PyTorch model for '{name}' here; resS and resnet18 are known")


def torch_measure(name, batch, measure, seconds, threads):
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net, shape = network(name)
    params = list(net.parameters())
    sgd = torch.optim.SGD(params, lr=0.01)
    x = torch.rand(batch, *shape)
    y = torch.arange(batch) % 10
    eps, size = 8 / 255, 2 / 255

    def infer():
        net.eval()
        with torch.no_grad():
            net(x)

    def train(images):
        net.train()
        sgd.zero_grad(set_to_none=True)
        functional.cross_entropy(net(images), y).backward()
        sgd.step()

    def pgd():
        net.eval()
        for p in params:
            p.requires_grad_(False)
        adv = x + torch.empty_like(x).uniform_(-eps, eps)
        for _ in range(10):
            adv.requires_grad_(True)
            grad, = torch.autograd.grad(functional.cross_entropy(net(adv), y, reduction="sum"), adv)
            adv = adv.detach() + size * grad.sign()
            adv = torch.clamp(torch.min(torch.max(adv, x - eps), x + eps), 0, 1)
        for p in params:
            p.requires_grad_(True)
        train(adv)

    step = {"infer": infer, "train": lambda: train(x), "pgd10": pgd}[measure]
    step()
    done, start = 0, time.monotonic()
    while True:
        step()
        done += 1
        spent = time.monotonic() - start
        if spent >= seconds:
            break
    print(f"{done * batch / spent:.2f} images/s torch {torch.__version__}")


def rate(command, env=None):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    return float(out.split()[0]), out.strip()


def have_torch():
    probe = subprocess.run([sys.executable, "-c", "import torch"], stderr=subprocess.DEVNULL)
    return probe.returncode == 0


def spread(values):
    return f"{statistics.median(values):9.1f} ({min(values):.1f}..{max(values):.1f})"


def main():
    if len(sys.argv) == 7 and sys.argv[1] == "--torch":
        _, _, name, batch, measure, seconds, threads = sys.argv
        torch_measure(name, int(batch), measure, float(seconds), int(threads))
        return
    if len(sys.argv) != 6:
        raise SystemExit(__doc__)
    bench, name, batch, seconds, rounds = sys.argv[1:]
    threads = str(len(os.sched_getaffinity(0)))
    tuned = dict(os.environ, MALLOC_MMAP_THRESHOLD_="1073741824", MALLOC_TRIM_THRESHOLD_="1073741824")
    peer = have_torch()
    for measure in MEASURES:
        ours, theirs = [], []
        for _ in range(int(rounds)):
            value, line = rate([bench, name, batch, measure, seconds])
            ours.append(value)
            if peer:
                value, other = rate([sys.executable, __file__, "--torch", name, batch, measure, seconds, threads],
                                    tuned)
                theirs.append(value)
        text = f"{name} batch {batch} {measure:6s} ours {spread(ours)} images/s"
        if peer:
            ratios = [a / b for a, b in zip(ours, theirs)]
            text += f"  PyTorch {spread(theirs)}  ratio {statistics.median(ratios):.2f}"
        print(text, flush=True)
    print(f"ours: {line.split('loss')[1].split('isa')[1].strip()}" + (f"; {other.split('images/s ')[1]}" if peer else "; no PyTorch here"))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
