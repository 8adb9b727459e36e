"""Twenty steps of a training stage in PyTorch, in float64, written down from the formulas.

    peer_steps problem KIND | python3 torch_steps.py | peer_steps check KIND

peer_steps.c describes both streams. Masks, scores and ADMM's variables are those of the papers, attacks have noise of
their own (PyTorch's generator), gradients are autograd's, the optimiser is torch.optim's. Where the published programs
have defects (ALG 10), this is what they intend: U is a constant for the gradient, kept entries are counted.
"""
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F

from torch_nets import ResNetSmall, Stream

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(1)

EPS, STEP, PGD, LR, MOMENTUM, DECAY, BATCHES, REPEATS, BETA, RHO = 8 / 255, 2 / 255, 3, 0.05, 0.9, 1e-3, 5, 4, 6.0, 0.1


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


def rate(kind, step):
    if kind.startswith("retrain"):  # up within two epochs, then a tenth from the fourth one on
        ramp = 1e-4 + (LR - 1e-4) * step / (2 * BATCHES)
        return ramp if step < 2 * BATCHES else LR * (0.1 if step >= 3 * BATCHES else 1)
    return LR * 0.5 * (1 + math.cos(math.pi * step / (4 * BATCHES)))


def put(name, v):
    a = np.ascontiguousarray(v.detach().numpy(), dtype="<f8")
    sys.stdout.buffer.write(b"array %s f8 %d\n" % (name.encode(), a.size) + a.tobytes())


stream = Stream(sys.stdin.buffer)
kind = reg = None
state, kept, trainees, moving, batches = {}, {}, [], [], []
while True:
    name, got = stream.next()
    if name is None:
        sys.exit("torch_steps: the stream ends early")
    if name == "end":
        break
    if name == "kind":
        kind, reg = got
    elif name == "kept":
        kept[got[0]] = int(got[1])
    elif name == "trainee":
        trainees.append(got[0])
    elif name == "moving":
        moving.append(got[0])
    elif name.startswith("param."):
        state[name[6:]] = torch.from_numpy(got.astype(np.float64))
    else:
        batches.append(torch.from_numpy(got.astype(np.float64)))

net = ResNetSmall(1, 16, 2, 3, 1)
side = int(math.sqrt(batches[0].numel() // batches[1].numel()))
for key, v in net.state_dict().items():
    if not key.endswith("num_batches_tracked"):
        v.copy_(state[key].reshape(v.shape))
net.train()
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

train = [params[n] for n in trainees]
optimizer = torch.optim.SGD(train, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
buffers = dict(net.named_buffers())
noise = torch.zeros(batches[1].numel(), 1, side, side)


def put_state():
    for n in trainees:
        put(n, params[n])
        buf = optimizer.state[params[n]].get("momentum_buffer")
        put("momentum", torch.zeros_like(params[n]) if buf is None else buf)
        if kind.startswith("admm") and n.endswith(".weight") and n[:-7] in layers:
            put("z", z.get(n, torch.zeros_like(params[n])))
            put("u", u.get(n, torch.zeros_like(params[n])))
    for n in moving:
        put(n, buffers[n])
    if kind == "free":
        put("noise", noise)


put_state()
for step in range(len(batches) // 2):
    x, y = batches[2 * step].reshape(-1, 1, side, side), batches[2 * step + 1].flatten().long()
    for group in optimizer.param_groups:
        group["lr"] = rate(kind, step)
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
