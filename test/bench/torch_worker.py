#!/usr/bin/env python3
"""PyTorch at the work of bench_engine, on command: torch_worker.py DUMP NET BATCH MEASURE THREADS VARIANT

DUMP is what `bench_engine NET BATCH dump` printed: the same parameters and images. VARIANT is four words joined by
commas: nchw|nhwc (memory format), eager|compiled, and two for the environment, which only our caller acts on.
The first line printed is the version. Lines on stdin, each answered by one line:
    probe    short steps for 0.5 s        -> their median, in seconds; one before does not count
    check    a step without noise         -> "loss X"
    run S    steps for at least S seconds -> "RATE MB": images/s, peak memory
Parameters are frozen during an attack, denormals flushed to zero. "compiled" is torch.compile (the newest), or for
inference and PGD-20, whose weights stay, a traced and frozen graph (1.13, which has nothing for training).
"""
import os
import statistics
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
import torch
from torch.nn.functional import cross_entropy
from torch_nets import NETS, Stream  # sets float64 and one thread, for comparisons

EPS, STEP = 8 / 255, 2 / 255


class Unsupported(Exception):
    pass


class Bench:
    def __init__(self, dump, name, batch, measure, layout, how):
        self.net = NETS[name]()
        self.format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        state, self.batch, self.measure = {}, batch, measure
        with open(dump, "rb") as fp:
            stream = Stream(fp)
            while True:
                key, value = stream.next()
                if key == "end":
                    break
                if key == "batch.input":
                    self.x = torch.tensor(value).permute(0, 3, 1, 2).contiguous(memory_format=self.format)
                else:
                    state[key.split(".", 1)[1]] = torch.tensor(value)
        missing = self.net.load_state_dict(state, strict=False).missing_keys
        assert all(k.endswith("num_batches_tracked") for k in missing), missing
        self.net = self.net.to(memory_format=self.format)
        self.params = list(self.net.parameters())
        self.y = torch.arange(batch) % self.params[-1].shape[0]
        self.to_device()
        self.sgd = torch.optim.SGD(self.params, lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.delta = torch.zeros_like(self.x)
        if how == "compiled":
            self.compile()
        self.frozen(measure in ("infer", "pgd20"))

    def to_device(self):
        """BENCH_DEVICE=cuda[:N], with the arithmetic of float32 as ours."""
        device = os.environ.get("BENCH_DEVICE", "cpu")
        if device != "cpu":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self.net, self.x, self.y = self.net.to(device), self.x.to(device), self.y.to(device)
            self.params = list(self.net.parameters())

    def compile(self):
        fixed = self.measure in ("infer", "pgd20")
        if hasattr(torch, "compile"):
            if self.measure == "infer":
                from torch._inductor import config
                config.freezing = True
            self.net = torch.compile(self.net)
        elif fixed:
            self.frozen(True)
            with torch.no_grad():
                graph = torch.jit.trace(self.net, self.x)
            infer = self.measure == "infer"
            self.net = torch.jit.optimize_for_inference(graph) if infer else torch.jit.freeze(graph)
            self.net.train = lambda mode: None
        else:
            raise Unsupported

    def frozen(self, yes):
        """Running statistics and fixed parameters, or training."""
        self.net.train(not yes)
        for p in self.params:
            p.requires_grad_(not yes)

    def learn(self, images):
        self.sgd.zero_grad(set_to_none=True)
        loss = cross_entropy(self.net(images), self.y)
        loss.backward()
        self.sgd.step()
        return loss

    def attack(self, steps, noise):
        x = self.x
        adv = x + torch.empty_like(x).uniform_(-EPS, EPS) if noise else x.clone()
        for _ in range(steps):
            adv.requires_grad_(True)
            grad, = torch.autograd.grad(cross_entropy(self.net(adv), self.y, reduction="sum"), adv)
            with torch.no_grad():
                adv = torch.clamp(torch.min(torch.max(adv + STEP * grad.sign(), x - EPS), x + EPS), 0, 1)
        return adv.detach()

    def judge(self, images):
        with torch.no_grad():
            return cross_entropy(self.net(images), self.y)

    def infer(self, noise, steps):
        return self.judge(self.x)

    def train(self, noise, steps):
        return self.learn(self.x)

    def pgd10(self, noise, steps=10):
        self.frozen(True)
        adv = self.attack(steps, noise)
        self.frozen(False)
        return self.learn(adv)

    def pgd20(self, noise, steps=20):
        return self.judge(self.attack(steps, noise))

    def freeat(self, noise, steps):
        images = torch.clamp(self.x + self.delta, 0, 1).requires_grad_(True)
        loss = self.learn(images)
        self.delta = torch.clamp(self.delta + EPS * images.grad.sign(), -EPS, EPS)
        return loss

    def step(self, noise=True, steps=None):
        short = {} if steps is None and self.measure.startswith("pgd") else {"steps": steps}
        return getattr(self, self.measure)(noise, **short)

    def check(self):
        for _ in range(2 if self.measure in ("train", "freeat") else 1):
            loss = self.step(noise=False)
        return loss.item()


def peak_memory():
    """VmHWM in MB."""
    with open("/proc/self/status") as fp:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in fp if line.startswith("VmHWM"))


def main():
    dump, name, batch, measure, threads, variant = sys.argv[1:]
    layout, how, *_ = variant.split(",")
    torch.set_num_threads(int(threads))
    torch.set_default_dtype(torch.float32)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    bench = Bench(dump, name, int(batch), measure, layout, how)
    print(torch.__version__.split("+")[0], flush=True)
    for line in sys.stdin:
        command, *args = line.split()
        if command == "check":
            print("loss %.6f" % bench.check(), flush=True)
        elif command == "probe":
            bench.step(steps=1)
            times, begin = [], time.monotonic()
            while not times or time.monotonic() - begin < 0.5:
                start = time.monotonic()
                bench.step(steps=1)
                times.append(time.monotonic() - start)
            print(statistics.median(times), flush=True)
        else:
            done, start, spent = 0, time.monotonic(), 0
            while done == 0 or spent < float(args[0]):
                bench.step()
                if bench.x.is_cuda:
                    torch.cuda.synchronize()
                done += 1
                spent = time.monotonic() - start
            print("%.6g %.1f" % (done * bench.batch / spent, peak_memory()), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Unsupported:
        sys.exit(3)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(1)
