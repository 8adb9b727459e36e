"""Checkpoints made by PyTorch, and what PyTorch computes with them, beside what we do.

    torch_files.py same PEER_RUN ARCH IMAGES WAY[+WAY]... [--OPTION...]   save, convert with torch2nn, compare: logits,
                                                   classes, accuracy clean and under PGD from the same noise
    torch_files.py load ARCH...                    what nn2torch writes goes into the classes, strictly and with
                                                   weights_only, and computes the same, in every layout
    torch_files.py zeros FILE NET LAYOUT REG       FILE, written from NET, has zeros where NET is pruned
    torch_files.py strict ARCH FILE...             each FILE, a bare .pth or .safetensors, loads strictly; all hold the same
    torch_files.py save ARCH FILE [WAY]...         write a checkpoint

EPS is the attack's radius in 1/255 (8), SIDE ResNet50's image (64).

The networks are those of torch_nets.py. A WAY is one of the table WAYS below, legacy, or trainedN: N steps of SGD
before. `half+net+legacy` are three of them.
"""
import json
import os
import subprocess
import sys

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(__file__))
import torch_nets  # noqa: E402  (it also sets one thread and float64)

torch.set_default_dtype(torch.float32)

SIDE = {"ResNet50": int(os.environ.get("SIDE", 64)), "resS": 28}
EPS = float(os.environ.get("EPS", 8)) / 255
STEP, STEPS = EPS / 4, 10
# float32 through at most 53 layers; in units of the largest logit. PyTorch's own float32 is as far from float64.
LOGITS_BOUND = 1e-4
# Ten steps along the sign of the gradient turn a rounding error into another adversarial image: margins behind PGD
# (the label's logit less the largest other) then differ between any two implementations, half of them by less than a
# fiftieth of their standard deviation, a few by a tenth of it, two of 500 by a third. An image that both decide by less
# than UNDECIDED of it can fall to either side, and one of a hundred anyhow; with a few images that is more than 0.2
# points, so those are asked for from ENOUGH images on. Half of all margins must be closer than MEDIAN_BOUND.
UNDECIDED, MEDIAN_BOUND, ENOUGH = 0.15, 0.05, 500


def images(arch, n, seed):
    """n images of 10 classes that a few steps of SGD can tell apart: one smooth pattern per class, and noise."""
    rng = np.random.default_rng(seed)
    side, c = SIDE.get(arch, 32), 1 if arch == "resS" else 3
    patterns = np.random.default_rng(5).random((10, c, 4, 4))
    labels = rng.integers(0, 10, n)
    big = np.repeat(np.repeat(patterns, side // 4, 2), side // 4, 3)[labels]
    x = np.clip(0.5 + 0.5 * (big - 0.5) + 0.15 * rng.standard_normal(big.shape), 0, 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(labels)


def make(arch, trained, seed=3):
    torch.manual_seed(seed)
    net = torch_nets.NETS[arch]().float()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    if not trained:
        for m in norms:  # nothing is 0 or 1 by accident
            with torch.no_grad():
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(0, 0.1)
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.5, 1.5)
        return net.eval()
    for m in norms:  # a few steps are to move the running statistics all the way
        m.momentum = 0.5
    x, y = images(arch, 64, 1)
    sgd = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    net.train()
    for step in range(trained):
        at = slice(16 * step % 64, 16 * step % 64 + 16)
        sgd.zero_grad()
        F.cross_entropy(net(x[at]), y[at]).backward()
        sgd.step()
    return net.eval()


def wrap(state, prefix):
    return {prefix + k: v for k, v in state.items()}


def spread(t):
    """The same values as a view with strides on a larger storage, not at its beginning."""
    if t.dim() < 2:
        return t
    big = torch.zeros([2 * s + 1 for s in reversed(t.shape)], dtype=t.dtype).permute(*range(t.dim() - 1, -1, -1))
    view = big[tuple(slice(1, None, 2) for _ in t.shape)]
    view.copy_(t)
    return view


def share(state):
    """All tensors in one storage, one after the other."""
    flat = torch.cat([t.detach().reshape(-1) for t in state.values() if t.dtype == torch.float32])
    out, at = {}, 0
    for k, t in state.items():
        if t.dtype != torch.float32:
            out[k] = t
            continue
        out[k] = flat[at : at + t.numel()].view(t.shape)
        at += t.numel()
    return out


WAYS = {
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "spread": lambda s: {k: spread(v) for k, v in s.items()},
    "share": share,
    "parameters": lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "module": lambda s: wrap(s, "module."),
    "compiled": lambda s: wrap(s, "_orig_mod."),
    "radmm": lambda s: wrap(s, "module.basic_model."),
    "radmm-imagenet": lambda s: wrap(s, "basic_model.module."),
    "normalized": lambda s: {
        "0.mean": torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1),
        "0.std": torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1),
        **wrap(s, "1."),
    },
    "scores": lambda s: {
        n: t
        for k, v in s.items()
        for n, t in [(k, v)]
        + ([(k[:-6] + "popup_scores", v.abs()), (k[:-6] + "k_score", torch.tensor(0.5))] if v.dim() > 1 else [])
    },
    "old": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "dead": lambda s: {**s, **{"sub_" + k: v for k, v in s.items() if k.startswith("block1.")}},
    "bare": lambda s: s,
    "state_dict": lambda s: {
        "epoch": 3,
        "arch": "net",
        "state_dict": s,
        "best_prec1": torch.tensor(1.5),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    },
    "net": lambda s: {"net": s, "epoch": 1, "best_loss": np.float64(0.25)},
    "model": lambda s: {"model": s},
    "admm": lambda s: {
        "net": s,
        "admm": {
            "ADMM_U": {k: v * 2 for k, v in s.items() if v.dim() > 1},
            "ADMM_Z": {k: v * 3 for k, v in s.items() if v.dim() > 1},
        },
    },
}


def save(arch, path, ways):
    """Write the checkpoint; returns the network."""
    trained = [int(w[7:] or 4) for w in ways if w.startswith("trained")]
    net = make(arch, trained[0] if trained else 0)
    value = net.state_dict()
    for way in ways:
        if way not in ("legacy", "random") and not way.startswith("trained"):
            value = WAYS[way](value)
    torch.save(value, path, _use_new_zipfile_serialization="legacy" not in ways)
    return net


def attack(net, x, y, noise):
    adv = x + noise
    for _ in range(STEPS):
        adv.requires_grad_(True)
        (g,) = torch.autograd.grad(F.cross_entropy(net(adv), y, reduction="sum"), adv)
        adv = adv.detach() + STEP * g.sign()
        adv = torch.max(torch.min(adv, x + EPS), x - EPS).clamp(0, 1)
    return adv.detach()


def margins(logits, labels):
    own = labels[:, None] == np.arange(logits.shape[1])
    return logits[own] - np.where(own, -np.inf, logits).max(1)


def same_outcomes(ours, theirs):
    """Do two attacks on the same images, whose margins these are, come to the same?"""
    flipped = (ours > 0) != (theirs > 0)
    decided = np.maximum(np.abs(ours), np.abs(theirs)) > UNDECIDED * theirs.std()
    apart = abs(int((ours > 0).sum()) - int((theirs > 0).sum()))
    return (
        (flipped & decided).sum() <= len(ours) // 100
        and np.median(np.abs(ours - theirs)) <= MEDIAN_BOUND * theirs.std()
        and (1000 * apart <= 2 * len(ours) or len(ours) < ENOUGH)
    )


def converted(path, nn, *options):
    subprocess.run(["torch2nn", "-q", "-o", nn, *options, path], check=True)


def compare(peer_run, arch, n, ways, options):
    """One line; true when all is as it should be."""
    net = save(arch, "x.pth", ways)
    converted("x.pth", "x.nn", *options)
    for w in ways:
        if w in ("half", "bfloat16"):  # what is left of the weights
            state = WAYS[w](net.state_dict())
            net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    run = net
    if "normalized" in ways:
        mean, std = torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1), torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1)
        run = lambda x: net((x - mean) / std)  # noqa: E731
    x, y = images(arch, n, 2)
    command = [peer_run, "x.nn", str(n), repr(EPS), repr(STEP), str(STEPS)]
    out = subprocess.run(command, input=x.numpy().tobytes() + y.int().numpy().tobytes(), stdout=subprocess.PIPE, check=True)
    v = np.frombuffer(out.stdout, "<f4")
    classes = (v.size - 2 * x.numel()) // (2 * n)
    parts = np.split(v, np.cumsum([x.numel(), n * classes, n * classes]))
    noise, ours, ours_adv = parts[0].reshape(x.shape), parts[1].reshape(n, -1), parts[2].reshape(n, -1)
    adv = attack(run, x, y, torch.tensor(noise.copy()))
    with torch.no_grad():
        theirs, theirs_adv = run(x).numpy(), run(adv).numpy()
    labels = y.numpy()
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    clean = [100 * (logits.argmax(1) == labels).mean() for logits in (ours, theirs)]
    robust = [100 * (logits.argmax(1) == labels).mean() for logits in (ours_adv, theirs_adv)]
    told = (arch, "+".join(ways), error, *clean, *robust)
    print("%s %s: logits differ by %.2g, clean %.2f and %.2f, pgd %.2f and %.2f" % told, flush=True)
    good = error < LOGITS_BOUND and (ours.argmax(1) == theirs.argmax(1)).all() and clean[0] == clean[1]
    good = good and same_outcomes(margins(ours_adv, labels), margins(theirs_adv, labels))
    return good and EPS / 2 < np.abs(noise).max() <= EPS * 1.001


def same(peer_run, arch, n, *cases):
    options = [c for c in cases if c.startswith("--")]
    good = [compare(peer_run, arch, int(n), c.split("+"), options) for c in cases if not c.startswith("--")]
    sys.exit(0 if all(good) else 1)


def unwrapped(path, layout, arch):
    """The state_dict that nn2torch wrote, as the plain class names its parameters."""
    value = torch.load(path, weights_only=True)
    state = {"dense": lambda v: v, "hydra": lambda v: v["state_dict"], "radmm": lambda v: v["net"]}[layout](value)
    large = arch == "ResNet50"
    if layout == "radmm":
        assert value["best_mean_loss" if large else "best_loss"] == 2**31 - 1 and value["epoch"] == 0
    prefix = {"radmm": "basic_model." if large else "module.basic_model.", "hydra": "module." if large else ""}.get(layout, "")
    assert all(k.startswith(prefix) for k in state), "keys without " + prefix
    return {k[len(prefix) :]: v for k, v in state.items()}


def masked_class(net, state, arch):
    """HYDRA's class: every layer has popup_scores, wrn_28_4 a second copy of its first stage."""
    if arch == "wrn_28_4":
        net.sub_block1 = torch_nets.WideStage(16, 64, 4, 1)
    for name, m in net.named_modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            m.popup_scores = torch.nn.Parameter(torch.zeros(state[name + ".popup_scores"].shape))
    return net


def load(*archs):
    for arch in archs:
        before = save(arch, "x.pth", [])
        converted("x.pth", "x.nn")
        x, _ = images(arch, 2, 2)
        for layout in ["dense", "hydra", "radmm"]:
            subprocess.run(["nn2torch", "-l", layout, "-o", "y.pth", "x.nn"], check=True)
            state = unwrapped("y.pth", layout, arch)
            net = torch_nets.NETS[arch]().float()
            if layout == "hydra":
                net = masked_class(net, state, arch)
            net.load_state_dict(state, strict=True)
            with torch.no_grad():
                if not torch.equal(net.eval()(x), before(x)):
                    sys.exit("%s %s: other logits" % (arch, layout))


def zeros(path, nn, layout, reg):
    out = subprocess.run(["nninfo", "-f", "json", nn], stdout=subprocess.PIPE, check=True)
    kept = {l["name"]: l["prune"]["kept"] for l in json.loads(out.stdout)["layers"]}
    for name, n in kept.items():
        w = unwrapped(path, layout, None)[name + ".weight"]
        alive = w != 0
        if reg == "channel":
            alive = alive.transpose(0, 1).flatten(1).any(1)
        if int(alive.sum()) > n or int(alive.sum()) < n // 2:
            sys.exit("%s: %d alive, %d kept" % (name, int(alive.sum()), n))


def safetensors(path):
    """The tensors of a file with nothing but float32 and int64 in it, by the format's description."""
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()
    assert header.pop("__metadata__") == {"format": "pt"}
    kinds = {"F32": "<f4", "I64": "<i8"}
    return {
        name: torch.tensor(np.frombuffer(data[slice(*t["data_offsets"])], kinds[t["dtype"]]).reshape(t["shape"]))
        for name, t in header.items()
    }


def strict(arch, *paths):
    states = []
    for path in paths:
        state = safetensors(path) if path.endswith(".safetensors") else torch.load(path, weights_only=True)
        net = torch_nets.NETS[arch]().float()
        net.load_state_dict(state, strict=True)
        states.append(net.state_dict())
    for state in states[1:]:
        for name, t in states[0].items():
            assert torch.equal(t, state[name]), name


if __name__ == "__main__":
    command, args = sys.argv[1], sys.argv[2:]
    if command == "save":
        save(args[0], args[1], args[2:])
    else:
        {"same": same, "load": load, "zeros": zeros, "strict": strict}[command](*args)
