"""attacks.py NET DIR -- time adveval and torchattacks on DIR/net.nn (net.pth) and DIR/test.tfrecord; see bench_attacks."""
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchattacks

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "peers"), str(Path(__file__).resolve().parents[1])]
import tfrecord
import torch_nets

name, where = sys.argv[1], Path(sys.argv[2])
rounds, eps = int(os.environ["ROUNDS"]), float(os.environ["EPS"])
iterations, targets, queries = (int(os.environ[k]) for k in ("ITERATIONS", "TARGETS", "QUERIES"))
torch.set_default_dtype(torch.float32)
threads = int(os.environ.get("THREADS") or len(os.sched_getaffinity(0)))
torch.set_num_threads(threads)
net = torch_nets.load(name, where / "net.pth", torch.float32)

x, y = [], []
for record in tfrecord.records(where / "test.tfrecord"):
    example = tfrecord.example(record)
    shape = [example["image/" + k] for k in ("height", "width")]
    x.append(torch.frombuffer(bytearray(example["image/encoded"]), dtype=torch.uint8).reshape(*shape, -1).permute(2, 0, 1))
    y.append(example["image/class/label"])
x, y = torch.stack(x).float() / 255, torch.tensor(y)
batch = 100


def right(v, labels):
    with torch.no_grad():
        return torch.cat([net(v[i : i + batch]).argmax(1) for i in range(0, len(v), batch)]) == labels


def pgd20():
    attack = torchattacks.PGD(net, eps=eps, alpha=eps / 4, steps=20)
    return sum(int(right(attack(x[i : i + batch], y[i : i + batch]), y[i : i + batch]).sum()) for i in range(0, len(x), batch))


def aa():
    left = right(x, y).nonzero()[:, 0]
    for attack in (
        torchattacks.APGD(net, eps=eps, steps=iterations, loss="ce"),
        torchattacks.APGDT(net, eps=eps, steps=iterations, n_classes=targets + 1),
        torchattacks.FAB(net, eps=eps, steps=iterations, n_classes=targets + 1, multi_targeted=True),
        torchattacks.Square(net, eps=eps, n_queries=queries, resc_schedule=False),
    ):
        some = [left[i : i + batch] for i in range(0, len(left), batch)]
        left = torch.cat([i[right(attack(x[i], y[i]), y[i])] for i in some] or [left])
    return len(left)


def ours(attack):
    out = subprocess.run(
        ["adveval", "-q", "-d", where / "test.tfrecord", "--eps", str(eps), "--step", str(eps / 4), "--attacks", attack,
         "--iterations", str(iterations), "--targets", str(targets), "--queries", str(queries), "--threads", str(threads), where / "net.nn"],
        check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)["attacks"][0]["correct"]


def clock():
    mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.monotonic(), mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


print("attacks: %s, %d images, %d threads, torchattacks %s on PyTorch %s" %
      (name, len(x), threads, torchattacks.__version__, torch.__version__))
for label, attack, peer in ("PGD-20", "pgd20", pgd20), ("AutoAttack", "aa", aa):
    best, found = {}, {}
    for _ in range(rounds):
        for who, run in ("adveval", lambda: ours(attack)), ("torchattacks", peer):
            start = clock()
            found[who] = run()
            took = [b - a for a, b in zip(start, clock())]
            best[who] = [min(t) for t in zip(best.get(who, took), took)]
    for who in best:
        print("%-10s  %-12s %7.2f s  processor %7.2f s  %d right" % (label, who, *best[who], found[who]))
    print("%-10s  ratio        %7.2f              %7.2f" % (label, *(b / a for a, b in zip(*best.values()))), flush=True)
