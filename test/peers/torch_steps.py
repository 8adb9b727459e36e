"""Twenty steps of a training stage in PyTorch, in float64, written down from the formulas.

    peer_steps problem KIND | python3 torch_steps.py | peer_steps check KIND

peer_steps.c describes both streams. Masks, scores and ADMM's variables are those of the papers, attacks have noise of
their own (PyTorch's generator), gradients are autograd's, the optimiser is torch.optim's. Where the published programs
have defects (ALG 10), this is what they intend: U is a constant for the gradient, kept entries are counted.
"""
import math
import sys

import torch
import torch.nn.functional as F

from torch_problem import BATCHES, BETA, DECAY, EPS, LR, MOMENTUM, PGD, RHO, STEP, Problem, put

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(1)


class Keep(torch.autograd.Function):
    """1 for the k largest, 0 elsewhere; the gradient goes through as it comes (straight-through estimator)."""

    @staticmethod
    def forward(ctx, size, k):
        mask = torch.zeros_like(size).flatten()
        mask[size.flatten().sort(descending=True, stable=True).indices[:k]] = 1
        return mask.reshape(size.shape)

    @staticmethod
    def backward(ctx, g):
        return g, None


class Masked:
    """A layer computes with weight * mask(); autograd sees where both come from."""

    def __init__(self, module, mask):
        self.weight, self.mask = module.weight, mask
        del module._parameters["weight"]
        module.weight = None
        module.register_forward_pre_hook(self)

    def __call__(self, module, _):
        module.weight = self.weight * self.mask()


def project(v, k, reg):
    """v where it is among the k largest, or in the k input channels of the largest norm; else 0."""
    size = v.abs() if reg == "weight" else v.transpose(0, 1).flatten(1).norm(dim=1)
    keep = Keep.apply(size.detach(), k)
    return v.detach() * (keep if reg == "weight" else keep.reshape([1, -1] + [1] * (v.dim() - 2)))


def trades(net, x, adv, y):
    clean, attacked = net(x), net(adv)
    kl = F.kl_div(F.log_softmax(attacked, 1), F.softmax(clean, 1), reduction="batchmean")
    return F.cross_entropy(clean, y) + BETA * kl


def mart(net, x, adv, y):
    clean, attacked = net(x), net(adv)
    q, p = F.softmax(clean, 1), F.softmax(attacked, 1)
    other = p.masked_fill(F.one_hot(y, p.shape[1]).bool(), -1).max(1).values
    boosted = F.cross_entropy(attacked, y) - torch.log(1.0001 - other + 1e-12).mean()
    kl = F.kl_div(torch.log(p + 1e-12), q, reduction="none").sum(1)
    return boosted + BETA * (kl * (1.0000001 - q.gather(1, y[:, None]).squeeze(1))).mean()


def attack(net, x, y, kind):
    """PGD within EPS, on the network in evaluation mode; TRADES climbs the divergence."""
    net.eval()
    pair = kind in ("trades", "mart")
    start = 0.001 * torch.randn_like(x) if pair else torch.empty_like(x).uniform_(-EPS, EPS)
    adv, clean = x + start, F.softmax(net(x), 1).detach()
    for _ in range(PGD):
        adv = adv.detach().requires_grad_()
        z = net(adv)
        loss = F.kl_div(F.log_softmax(z, 1), clean, reduction="sum") if kind == "trades" else F.cross_entropy(z, y)
        adv = adv + STEP * torch.autograd.grad(loss, adv)[0].sign()
        adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1)
    net.train()
    return adv.detach()


problem = Problem(sys.stdin.buffer)
kind, reg, kept, net = problem.kind, problem.reg, problem.kept, problem.net
layers = {n: m for n, m in net.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
params = dict(net.named_parameters())
z, u = {}, {}
if kind.startswith("prune"):
    for n, m in layers.items():
        w = m.weight.detach()
        fan = w[0].numel() if reg == "weight" else w.shape[1]
        s = w.clone() if reg == "weight" else w.abs().transpose(0, 1).flatten(1).sum(1).reshape(
            [1, -1] + [1] * (w.dim() - 2))
        s = torch.nn.Parameter(math.sqrt(6 / fan) * s / s.abs().max())
        params[n + ".popup_scores"] = s
        Masked(m, lambda s=s, k=kept[n]: Keep.apply(s.abs(), k))
elif kind.startswith(("finetune", "retrain")):
    for n, m in layers.items():
        mask = (m.weight != 0).double()  # the problem's weights are zero where the mask is
        size = mask.count_nonzero() if reg == "weight" else mask.transpose(0, 1).flatten(1).amax(1).count_nonzero()
        assert size == kept[n], (n, size, kept[n])
        Masked(m, lambda mask=mask: mask)

train = [params[n] for n in problem.trainees]
optimizer = torch.optim.SGD(train, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
buffers = dict(net.named_buffers())
noise = torch.zeros_like(problem.batches[0][0])


def put_state():
    problem.put_state(params, optimizer, buffers, z, u, noise)


put_state()
for step, (x, y) in enumerate(problem.batches):
    for group in optimizer.param_groups:
        group["lr"] = problem.rate(step)
    if kind.startswith("admm") and step % BATCHES == 0:
        for n in (n + ".weight" for n in layers):
            w = params[n].detach()
            k = kept[n[:-7]]
            if step == 0:
                z[n], u[n] = project(w, k, reg), torch.zeros_like(w)
            else:
                z[n] = project(w + u[n], k, reg)
                u[n] = u[n] + w - z[n]
    if kind == "natural":
        adv = x
    elif kind == "free":
        leaf = noise.clone().requires_grad_()
        adv = (x + leaf).clamp(0, 1)
    else:
        adv = attack(net, x, y, kind)
    put("attacked", adv)

    if kind in ("trades", "mart"):
        loss = {"trades": trades, "mart": mart}[kind](net, x, adv, y)
    else:
        loss = F.cross_entropy(net(adv), y)
    if kind.startswith("admm"):
        rho = RHO * 1.3 ** (step // BATCHES)
        for n in z:
            loss = loss + rho / 2 * (params[n] - z[n] + u[n]).pow(2).sum()
    optimizer.zero_grad()
    loss.backward()
    if kind == "free":
        noise = (noise + EPS * leaf.grad.sign()).clamp(-EPS, EPS)
    optimizer.step()
    put_state()
