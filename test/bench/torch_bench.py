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


def torch_measure(name, batch, measure, seconds, threads):
    sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
    import torch
    from torch.nn import functional
    from torch_nets import NETS  # sets one thread and float64, for comparisons

    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    net = NETS[name]()
    shape = {"resS": (1, 28, 28), "ResNet50": (3, 224, 224)}.get(name, (3, 32, 32))
    params = list(net.parameters())
    sgd = torch.optim.SGD(params, lr=0.01)
    x = torch.rand(batch, *shape)
    y = torch.arange(batch) % (1000 if name == "ResNet50" else 10)
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


def have_peer(name):
    """Is PyTorch here, and is the network written down for it (test/peers/torch_nets.py)?"""
    peers = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers")
    code = f"import sys; sys.path.append({peers!r}); import torch_nets; sys.exit({name!r} not in torch_nets.NETS)"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


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
    peer = have_peer(name)
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
    peer_text = other.split("images/s ")[1] if peer else "no PyTorch here, or no such network in it"
    print(f"ours: kernels {line.split(' isa ')[1]}; peer: {peer_text}")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
