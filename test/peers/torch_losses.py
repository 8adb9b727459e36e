"""Compare losses of pairs with PyTorch's autograd in float64, and optimisers with torch.optim in float32.

    peer_loss | python3 torch_losses.py

peer_loss.c describes what comes on stdin. The losses are written down here from the published programs of TRADES
and MART. One line per comparison; status 1 when one fails.
"""
import sys

import torch
import torch.nn.functional as F

torch.set_num_threads(1)

# Losses are sums of a few terms below 100 in double. Gradients are rounded to float once or twice, 6e-8 of numbers
# below 1. Twenty steps in float: numbers of size 1 to 3, rounded about five times a step, and PyTorch may fuse a
# product with a sum where we do not.
LOSS_BOUND = 1e-11
GRADIENT_BOUND = 2e-7
STEPS_BOUND = 1e-5


def trades(zn, za, y, beta):
    kl = F.kl_div(F.log_softmax(za, 1), F.softmax(zn, 1), reduction="none").sum(1)
    return F.cross_entropy(zn, y, reduction="none") + beta * kl


def mart(zn, za, y, beta):
    p, q = F.softmax(za, 1), F.softmax(zn, 1)
    top = torch.argsort(p, dim=1)[:, -2:]
    other = torch.where(top[:, -1] == y, top[:, -2], top[:, -1])
    adversarial = F.cross_entropy(za, y, reduction="none")
    adversarial = adversarial + F.nll_loss(torch.log(1.0001 - p + 1e-12), other, reduction="none")
    right = torch.gather(q, 1, y.unsqueeze(1)).squeeze(1)
    kl = F.kl_div(torch.log(p + 1e-12), q, reduction="none").sum(1)
    return adversarial + beta * kl * (1.0000001 - right)


def optimizer(name, p, lr, momentum, decay):
    if name == "adam":
        return torch.optim.Adam([p], lr=lr, weight_decay=decay)
    if name == "rmsprop":
        return torch.optim.RMSprop([p], lr=lr, momentum=momentum, weight_decay=decay)
    return torch.optim.SGD([p], lr=lr, momentum=momentum, weight_decay=decay, nesterov=name == "nesterov")


words = iter(sys.stdin.read().split())
bad = 0


def numbers(n, dtype=torch.float32):
    return torch.tensor([float(next(words)) for _ in range(n)], dtype=dtype)


def compare(what, ours, theirs, bound):
    global bad
    worst = (ours.double() - theirs.double()).abs().max().item()
    print(f"{what}: worst error {worst:.3g}, bound {bound:g}")
    bad += not worst <= bound


for kind in words:
    if kind == "loss":
        name, n, classes, beta = next(words), int(next(words)), int(next(words)), float(next(words))
        zn, za = (numbers(n * classes).double().reshape(n, classes).requires_grad_() for _ in range(2))
        y = numbers(n).long()
        loss = {"trades": trades, "mart": mart}[name](zn, za, y, beta)
        loss.mean().backward()
        what = f"{name} of {classes} classes, beta {beta:g}"
        compare(what, numbers(n, torch.float64), loss.detach(), LOSS_BOUND)
        for side, z in ("image", zn), ("attacked", za):
            compare(f"{what}, gradient by the {side}", numbers(n * classes).reshape(n, classes), z.grad, GRADIENT_BOUND)
    else:
        name, n, steps = next(words), int(next(words)), int(next(words))
        lr, momentum, decay = (float(next(words)) for _ in range(3))
        p = torch.nn.Parameter(numbers(n))
        o = optimizer(name, p, lr, momentum, decay)
        for _ in range(steps):
            p.grad = numbers(n)
            o.step()
            ours = numbers(n)
        compare(f"{name}, momentum {momentum:g}, {steps} steps", ours, p.detach(), STEPS_BOUND)

sys.exit(bad > 0)
