"""Twenty steps of a training stage by the published programs' own functions, in float64 on the CPU.

    peer_steps problem KIND | python3 published_steps.py | peer_steps check KIND

HYDRA_SOURCE and RADMM_SOURCE are checkouts of github.com/inspire-group/hydra and of
github.com/yeshaokai/Robustness-Aware-Pruning-ADMM; nothing of them is kept here. From the first come the layers with
scores, what is frozen, the scores' start, PGD, TRADES and the loop of free training; from the other the projection,
ADMM's Z, U, rho and penalty, the masks of retraining, and the model that attacks. Both know weight pruning only: the
channels are later programs'.

What is set here so that both do the same:
- HYDRA keeps n - trunc((1 - k) n), R-ADMM what exceeds a percentile: k and the percentile lie half way between two
  counts, so that exactly ours is kept, and no number equals the percentile (ALG 10, Q24 and Q29).
- U keeps no graph: the published one lets the gradient flow through it (ALG 10, Q28).
- Running statistics move with the passes that we have, once for the attacked images (and the images, TRADES): the
  published ones move in R-ADMM's attack (Q31, our --attack-bn batch+update) and in passes that nobody learns from, the
  second one over TRADES' images and R-ADMM's over the images. The gradients do not depend on them.
- Noise of free training has three channels there; the network here sees the first.
"""
import ast
import os
import sys
import types
from unittest import mock

import torch
import torch.nn.functional as F

from torch_problem import BATCHES, BETA, DECAY, EPS, LR, MOMENTUM, PGD, REPEATS, RHO, STEP, Problem, put

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(2)  # no ReLU of these steps is so near its kink that float is on its other side
torch.Tensor.cuda = lambda self, *_, **__: self
torch.Tensor.cpu = lambda self: self.clone()  # as from a GPU: a copy
for name in "torchvision torchvision.datasets torchvision.transforms tensorboardX scipy scipy.misc scipy.stats".split():
    sys.modules[name] = mock.MagicMock()  # imported there, and used by nothing that runs here
out, sys.stdout = sys.stdout, sys.stderr  # the programs print

problem = Problem(sys.stdin.buffer)
kind, kept, net = problem.kind, problem.kept, problem.net
assert problem.reg == "weight", "the published programs prune weights"
radmm = kind.startswith(("admm", "retrain"))
sys.path.insert(0, os.environ["RADMM_SOURCE" if radmm else "HYDRA_SOURCE"])
buffers, z, u = dict(net.named_buffers()), {}, {}
noise = torch.zeros_like(problem.batches[0][0])


def put_state():
    sys.stdout = out
    problem.put_state(params, optimizer, buffers, z, u, noise)
    sys.stdout = sys.stderr


def put_attacked(x):
    sys.stdout = out
    put("attacked", x)
    sys.stdout = sys.stderr


def set_rate(step):
    for group in optimizer.param_groups:
        group["lr"] = problem.rate(step)


class Statistics:
    """Running statistics as they were when this was made, or as the passes since then that count have left them."""

    def __init__(self):
        self.kept = {n: b.clone() for n, b in buffers.items()}

    def keep(self):
        self.kept = {n: b.clone() for n, b in buffers.items()}

    def restore(self, *_):
        for n, b in buffers.items():
            b.data.copy_(self.kept[n])  # autograd need not know


def sgd(names):
    """The optimiser, of what the program trains: no more and no less than what we train."""
    trained = {n for n, p in names.items() if p.requires_grad}
    assert trained == set(problem.trainees), trained ^ set(problem.trainees)
    return torch.optim.SGD([names[n] for n in problem.trainees], lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def finish(loss):
    optimizer.zero_grad()
    loss.backward()
    if kind.startswith("retrain"):
        for n, w in model.named_parameters():
            if n in config.masks:
                w.grad *= config.masks[n]
    optimizer.step()
    put_state()


def with_subnet_layers(module):
    """The network with HYDRA's layers in place of PyTorch's."""
    from models.layers import SubnetConv, SubnetLinear

    for name, m in list(module.named_children()):
        if isinstance(m, torch.nn.Conv2d):
            new = SubnetConv(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, bias=m.bias is not None)
        elif isinstance(m, torch.nn.Linear):
            new = SubnetLinear(m.in_features, m.out_features)
        else:
            with_subnet_layers(m)
            continue
        new.weight.data, new.popup_scores.data = m.weight.data, torch.zeros_like(m.weight)
        if m.bias is not None:
            new.bias.data = m.bias.data
        setattr(module, name, new)


if radmm:
    from admm import admm

    tree = ast.parse(open(os.environ["RADMM_SOURCE"] + "/ADMM_examples/cifar10/adv_main.py").read())
    wanted = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "AttackPGD"]
    scope = {"nn": torch.nn, "torch": torch, "F": F}
    exec(compile(ast.Module(wanted, []), "adv_main.py", "exec"), scope)
    config = types.SimpleNamespace(random_start=True, step_size=255 * STEP, epsilon=255 * EPS, num_steps=PGD, admm=True,
                                   admm_epoch=1, multi_rho=True, sparsity_type="irregular")
    model = config.model = scope["AttackPGD"](net, config)
    model.train()
    prefix = "basic_model."
    names = {prefix + n + ".weight": k for n, k in kept.items()}
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    config.prune_ratios = {n: (sizes[n] - k - 0.5) / (sizes[n] - 1) for n, k in names.items()}
    config.rhos = {n: RHO for n in names}
    params = dict(net.named_parameters())
    optimizer = sgd(params)
    state = admm.ADMM(config)
    if kind.startswith("retrain"):
        config.admm = False
        admm.masking(config)
        for n, mask in config.masks.items():
            assert mask.sum() == names[n] == (params[n[len(prefix):]] != 0).sum()
    put_state()
    for step, (x, y) in enumerate(problem.batches):
        set_rate(step)
        before = Statistics()
        hook = net.register_forward_pre_hook(before.restore)
        _, z_adv, adv = model(x, y)
        hook.remove()
        put_attacked(adv)
        loss = F.cross_entropy(z_adv, y)
        if config.admm:
            admm.admm_update(config, state, "cpu", None, optimizer, step // BATCHES, x, step % BATCHES)
            for n in names:
                state.ADMM_U[n] = state.ADMM_U[n].detach()
            z.update({n[len(prefix):]: v for n, v in state.ADMM_Z.items()})
            u.update({n[len(prefix):]: v for n, v in state.ADMM_U.items()})
            _, _, loss = admm.append_admm_loss(config, state, loss)
        finish(loss)
    sys.exit()

if kind.startswith(("prune", "finetune")):
    from utils.model import initialize_scaled_score, prepare_model

    with_subnet_layers(net)
    buffers = dict(net.named_buffers())
    args = types.SimpleNamespace(k=1.0, exp_mode=kind.split("-")[0], freeze_bn=False, scores_init_type=None)
    prepare_model(net, args)
    for n, m in net.named_modules():
        if n in kept:
            m.set_prune_rate((kept[n] - 0.5) / m.weight.numel())
            if args.exp_mode == "finetune":
                m.popup_scores.data = (m.weight != 0).double()
    if args.exp_mode == "prune":
        initialize_scaled_score(net)
params = dict(net.named_parameters())
optimizer = sgd(params)

if kind == "free":
    from trainer import freeadv

    class Watched(torch.nn.Module):
        """The network as the loop of free training sees it; says what comes in."""

        def forward(self, x):
            set_rate(self.step)
            put_attacked(x[:, :1])
            self.step += 1
            return net(x[:, :1])

    class Watching:
        """The optimiser as that loop sees it."""

        param_groups, zero_grad = optimizer.param_groups, optimizer.zero_grad

        def step(self):
            noise.copy_(sys._getframe(1).f_locals["global_noise_data"][:, :1])
            optimizer.step()
            put_state()

    watched = Watched()
    watched.step = 0
    put_state()
    args = types.SimpleNamespace(normalize=False, batch_size=noise.shape[0], image_dim=problem.side, mean=[0.0] * 3,
                                 std=[1.0] * 3, n_repeats=REPEATS, epsilon=EPS, print_freq=1000)
    # what it prints, with a count that today's PyTorch refuses
    with mock.patch.multiple(freeadv, ProgressMeter=mock.MagicMock(), accuracy=lambda *_, **__: [torch.zeros(1)] * 2):
        freeadv.train(watched, "cpu", problem.batches[::REPEATS], None, F.cross_entropy, Watching(), 0, args, mock.MagicMock())
    sys.exit()

from utils.adv import pgd_whitebox, trades_loss

put_state()
for step, (x, y) in enumerate(problem.batches):
    set_rate(step)
    if kind == "trades":
        # in training mode it looks at the images, the attacked ones and the images again
        looks, statistics = [], Statistics()

        def look(module, inputs):
            if module.training:
                looks.append(inputs[0].detach())

        def looked(module, *_):
            if module.training:
                statistics.restore() if len(looks) == 3 else statistics.keep()

        hooks = [net.register_forward_pre_hook(look), net.register_forward_hook(looked)]
        loss = trades_loss(net, x, y, "cpu", optimizer, STEP, EPS, PGD, BETA, 0.0, 1.0)
        for hook in hooks:
            hook.remove()
        assert len(looks) == 3 and torch.equal(looks[0], x) and torch.equal(looks[2], x)
        put_attacked(looks[1])
    else:
        net.eval()
        adv = pgd_whitebox(net, x, y, "cpu", EPS, PGD, STEP, 0.0, 1.0).detach()
        net.train()
        put_attacked(adv)
        loss = F.cross_entropy(net(adv), y)
    finish(loss)
