"""The attacks once more, to compare adveval with: image by image.

    strong_attacks.py PEER BOUND NET.pth IMAGES.tfrecord EVAL.json OUTCOMES.tsv [ATTACK]...

PEER own: written down here from the papers, by batches of tensors in float64, with adveval's own noise, so that an
image must have the same fate but for rounding. PEER torchattacks: that package's; PGD and APGD's parts start from
adveval's points, FGSM and FAB-T have no noise, Square draws its own squares, which shrink as they do in AutoAttack's own
code (by itself the package shrinks them sooner), and C&W-inf, which the package does not have, is the own one. For each
attack, or those named: how many images each leaves right, and which ones they disagree on. Status 1 when an attack's
accuracies are more than BOUND points apart; from torchattacks' Square, which is another random search, they may be two
standard errors further (a search of its own decides each image that they disagree on). The networks are those of
torch_nets.py.
"""
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tfrecord
import torch_nets

SEED_STREAM, PGD, CW, FIRST_PART = 5, 1, 2, 16  # where adveval draws from
PARTS = ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]


# ---- noise -------------------------------------------------------------------------------------------------------


def philox(seed, c0, c1, c2, c3):
    """Philox4x32-10 (Salmon et al. 2011) at counters (c0, c1, c2, c3); c2 and c3 broadcast. (..., 4) words."""
    c2, c3 = np.broadcast_arrays(np.asarray(c2, np.uint64), np.asarray(c3, np.uint64))
    c = [np.full_like(c2, c0), np.full_like(c2, c1), c2, c3]
    k0, k1, low = seed, SEED_STREAM, np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, -1)


def uniform(seed, c0, c1, index, shape):
    """In (-1,1), for each image, drawn in h,w,c order and returned as c,h,w."""
    c, h, w = shape
    blocks = np.arange((c * h * w + 3) // 4)
    words = philox(seed, c0, c1, np.asarray(index)[:, None], blocks[None]).reshape(len(index), -1)[:, : c * h * w]
    u = 2 * ((words >> np.uint64(8)).astype(np.float64) + 0.5) / 2**24 - 1
    return torch.tensor(u.reshape(-1, h, w, c).transpose(0, 3, 1, 2).copy())


# ---- the attacks, once more --------------------------------------------------------------------------------------


def plain(net, entry, x, y, index, seed):
    """FGSM, PGD (Madry et al. 2018, arXiv:1706.06083) and C&W-inf with its published margin, 50. Which images were broken."""
    eps, broken, margin = entry["eps"], torch.zeros(len(x), dtype=torch.bool), entry["loss"] == "margin"
    for restart in range(entry["restarts"]):
        at = x
        if entry["name"] != "fgsm":
            at = x + eps * uniform(seed, CW if margin else PGD, restart, index, x.shape[1:]).to(x.dtype)
        for _ in range(entry["steps"]):
            v = at.clone().requires_grad_()
            z = net(v)
            if margin:
                best = z.scatter(1, y[:, None], -np.inf).max(1)[0]
                f = -(z.gather(1, y[:, None])[:, 0] - best + 50).clamp(min=0).sum()
            else:
                f = F.cross_entropy(z, y, reduction="sum")
            up = torch.autograd.grad(f, v)[0].sign()
            at = torch.minimum(torch.maximum(at + entry["step"] * up, x - eps), x + eps).clamp(0, 1)
        with torch.no_grad():
            broken |= net(at).argmax(1) != y
    return broken


def dlr(z, y, target):
    s = z.sort(dim=1, descending=True)[0]
    zy = z.gather(1, y[:, None])[:, 0]
    if target is None:
        other = z.scatter(1, y[:, None], -np.inf).max(1)[0]
        return -(zy - other) / (s[:, 0] - s[:, 2] + 1e-12)
    return -(zy - z.gather(1, target[:, None])[:, 0]) / (s[:, 0] - (s[:, 2] + s[:, 3]) / 2 + 1e-12)


def apgd(net, x, y, noise, eps, steps, loss):
    """Croce & Hein 2020 (arXiv:2003.01690), Algorithm 1, l-inf. Which images were broken."""

    def look(v):
        v = v.clone().requires_grad_()
        z = net(v)
        f = loss(z, y)
        g = torch.autograd.grad(f.sum(), v)[0]
        return f.detach(), g, z.argmax(1) != y

    def inside(v):
        return torch.minimum(torch.maximum(v, x - eps), x + eps).clamp(0, 1)

    def of(mask, v):
        return mask.view(-1, 1, 1, 1).expand_as(v)

    at = (x + eps * noise / noise.abs().flatten(1).max(1)[0].view(-1, 1, 1, 1)).clamp(0, 1)
    f, g, broken = look(at)
    before, best_at, best_f, best_g = at, at, f, g
    history, eta = [f], torch.full((len(x), 1, 1, 1), 2 * eps)
    checked_f, halved = best_f, torch.ones(len(x), dtype=torch.bool)
    wait = max(int(0.22 * steps), 1)
    checkpoint = wait
    for k in range(1, steps + 1):
        z = inside(at + eta * g.sign())
        a = 1.0 if k == 1 else 0.75
        before, at = at, inside(at + a * (z - at) + (1 - a) * (at - before))
        f, g, wrong = look(at)
        broken |= wrong
        history.append(f)
        better = f > best_f
        best_f = torch.where(better, f, best_f)
        best_at, best_g = torch.where(of(better, at), at, best_at), torch.where(of(better, g), g, best_g)
        if k == checkpoint:
            rises = sum((b > a).long() for a, b in zip(history[-wait - 1 : -1], history[-wait:]))
            halve = (rises <= 0.75 * wait) | (~halved & (checked_f >= best_f))
            eta = torch.where(of(halve, eta), eta / 2, eta)
            at, g = torch.where(of(halve, at), best_at, at), torch.where(of(halve, g), best_g, g)
            halved, checked_f = halve, best_f
            wait = max(wait - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            checkpoint += wait
    return broken


def onto_plane(v, w, r):
    """The least step s (l-inf) with w.s = r and 0 <= v + s <= 1, by bisection; else to the corner towards it."""
    towards = torch.sign(w) * torch.sign(r).view(-1, 1)
    room = torch.where(towards > 0, 1 - v, v) * (towards != 0)
    lo, hi = torch.zeros(len(v), 1), torch.ones(len(v), 1)
    for _ in range(60):
        mid = (lo + hi) / 2
        short = (w.abs() * torch.minimum(mid, room)).sum(1, keepdim=True) < r.abs().view(-1, 1)
        lo, hi = torch.where(short, mid, lo), torch.where(short, hi, mid)
    return towards * torch.minimum(hi, room)


def fab(net, x, y, target, eps, steps):
    """Croce & Hein 2020 (arXiv:1907.02044), Algorithm 1, l-inf, from x. Which images were broken."""
    at, best, rows = x.clone(), torch.full((len(x),), np.inf), torch.arange(len(x))
    for _ in range(steps):
        v = at.clone().requires_grad_()
        z = net(v)
        f = z[rows, target] - z[rows, y]
        w = torch.autograd.grad(f.sum(), v)[0].flatten(1)
        f = f.detach()
        d1 = onto_plane(at.flatten(1), w, -f)
        d2 = onto_plane(x.flatten(1), w, (w * (at - x).flatten(1)).sum(1) - f)
        a1, a2 = d1.abs().max(1)[0].clamp(min=1e-8), d2.abs().max(1)[0].clamp(min=1e-8)
        alpha = (a1 / (a1 + a2)).clamp(max=0.1).view(-1, 1, 1, 1)
        at = (1 - alpha) * (at + 1.05 * d1.view_as(x)) + alpha * (x + 1.05 * d2.view_as(x))
        at = at.clamp(0, 1)
        with torch.no_grad():
            wrong = net(at).argmax(1) != y
        far = (at - x).abs().flatten(1).max(1)[0]
        best = torch.where(wrong & (far < best), far, best)
        at = torch.where(wrong.view(-1, 1, 1, 1), x + 0.9 * (at - x), at)
    return best <= eps


def square(net, x, y, index, seed, eps, queries):
    """Andriushchenko et al. 2020 (arXiv:1912.00049), Algorithms 1 and 2. Which images were broken."""
    n, c, h, w = x.shape
    c0 = FIRST_PART + PARTS.index("square")
    thresholds = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]

    def margins(v):
        with torch.no_grad():
            z = net(v)
        return z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -np.inf).max(1)[0]

    def words(query, count):
        block = 0 if query == 0 else 2**20 + query * 2**12
        got = philox(seed, c0, 0, np.asarray(index)[:, None], block + np.arange((count + 3) // 4)[None])
        return got.reshape(n, -1)[:, :count]

    signs = np.where(words(0, c * w) >> np.uint64(31), 1.0, -1.0).reshape(n, c, 1, w)
    at = (x + eps * torch.tensor(signs)).clamp(0, 1)
    least = margins(at)
    for q in range(1, queries + 1):
        p = 0.8 / 2 ** sum(q - 1 > t for t in thresholds)
        side = min(max(int(np.floor(np.sqrt(p * h * w) + 0.5)), 1), h, w)
        d, trial = words(q, 2 + c), at.clone()
        for i in range(n):
            top, left = int(d[i, 0]) * (h - side + 1) >> 32, int(d[i, 1]) * (w - side + 1) >> 32
            for k in range(c):
                trial[i, k, top : top + side, left : left + side] += 2 * eps * (1 if int(d[i, 2 + k]) >> 31 else -1)
        trial = torch.minimum(torch.maximum(trial, x - eps), x + eps).clamp(0, 1)
        m = margins(trial)
        better = (m < least) & (least >= 0)
        at, least = torch.where(better.view(-1, 1, 1, 1), trial, at), torch.where(better, m, least)
    return least < 0


def own(net, part, entry, x, y, index, seed):
    """Which of these images, all of them right, the part breaks."""
    if "loss" in entry:
        return plain(net, entry, x, y, index, seed)
    if part == "square":
        return square(net, x, y, index, seed, entry["eps"], entry.get("queries", entry["steps"]))
    broken, order = torch.zeros(len(x), dtype=torch.bool), None
    c0, eps, steps = FIRST_PART + PARTS.index(part), entry["eps"], entry["steps"]
    with torch.no_grad():
        order = net(x).scatter(1, y[:, None], -np.inf).sort(dim=1, descending=True, stable=True)[1]
    if part in ("apgd-ce", "apgd-dlr"):
        loss = (lambda z, t: F.cross_entropy(z, t, reduction="none")) if part == "apgd-ce" else (lambda z, t: dlr(z, t, None))
        return apgd(net, x, y, uniform(seed, c0, 0, index, x.shape[1:]), eps, steps, loss)
    for t in range(min(entry["targets"], order.shape[1] - 1)):
        target = order[:, t]
        if part == "fab-t":
            broken |= fab(net, x, y, target, eps, steps)
        else:
            noise = uniform(seed, c0, t * 2**14, index, x.shape[1:])
            broken |= apgd(net, x, y, noise, eps, steps, lambda z, k, target=target: dlr(z, k, target))
    return broken


def starts(attack, part, x, index, seed):
    """Let APGD of torchattacks begin where adveval does: what it draws for each image is that image's noise."""
    single, draw = attack.attack_single_run, torch.rand
    place = {v.numpy().tobytes(): i for v, i in zip(x, index)}

    def run(some, *rest):
        rows = [place[v.numpy().tobytes()] for v in some]
        target = getattr(attack, "target_class", 2) - 2
        noise = uniform(seed, FIRST_PART + PARTS.index(part), target * 2**14, rows, x.shape[1:])
        torch.rand = lambda shape, **_: ((noise + 1) / 2).to(x.dtype).reshape(shape)
        try:
            return single(some, *rest)
        finally:
            torch.rand = draw

    attack.attack_single_run = run


def theirs(net, part, entry, x, y, index, seed):
    """The same by the package torchattacks."""
    import torchattacks

    if entry.get("loss") == "margin":
        return plain(net, entry, x, y, index, seed)
    eps, steps, classes = entry["eps"], entry["steps"], 1 + entry.get("targets", 9)
    attack = {
        "fgsm": lambda: torchattacks.FGSM(net, eps=eps),
        "pgd": lambda: torchattacks.PGD(net, eps=eps, alpha=entry["step"], steps=steps),
        "apgd-ce": lambda: torchattacks.APGD(net, eps=eps, steps=steps, loss="ce"),
        "apgd-dlr": lambda: torchattacks.APGD(net, eps=eps, steps=steps, loss="dlr"),
        "apgd-t": lambda: torchattacks.APGDT(net, eps=eps, steps=steps, n_classes=classes),
        "fab-t": lambda: torchattacks.FAB(net, eps=eps, steps=steps, n_classes=classes, multi_targeted=True),
        "square": lambda: torchattacks.Square(net, eps=eps, n_queries=entry.get("queries", steps), resc_schedule=False),
    }[part.rstrip("0123456789")]()
    if part.startswith("apgd"):
        starts(attack, part, x, index, seed)
    noise, draw = eps * uniform(seed, PGD, 0, index, x.shape[1:]).to(x.dtype), torch.empty_like
    try:
        if "loss" in entry:  # PGD's start; where FGSM has none
            torch.empty_like = lambda _: types.SimpleNamespace(uniform_=lambda *_: noise)
        adv = attack(x, y)
    finally:
        torch.empty_like = draw
    assert (adv - x).abs().max() <= eps + 1e-5 and adv.min() >= 0 and adv.max() <= 1
    with torch.no_grad():
        return net(adv).argmax(1) != y


# ---- the comparison ----------------------------------------------------------------------------------------------


def images(path, rows):
    x, y = [], []
    for i, record in enumerate(tfrecord.records(path)):
        if i in rows:
            example = tfrecord.example(record)
            shape = [example["image/" + k] for k in ("height", "width")]
            x.append(np.frombuffer(example["image/encoded"], np.uint8).reshape(*shape, -1).transpose(2, 0, 1))
            y.append(example["image/class/label"])
    return torch.tensor(np.stack(x)), torch.tensor(y)


def main(peer, bound, net_path, data, eval_path, outcomes_path, *names):
    record = json.loads(Path(eval_path).read_text())
    head, *rows = [line.split("\t") for line in Path(outcomes_path).read_text().splitlines()]
    rows = [r for r in rows if "-" not in [r[head.index(a["name"])] for a in record["attacks"]]]
    index = [int(r[0]) for r in rows]
    dtype = torch.float64 if peer == "own" else torch.float32
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    net = torch_nets.load(record["model"]["arch"], net_path, dtype)
    x, y = images(data, set(index))
    x, seed, worst = x.to(dtype) / 255, record["history"]["options"]["seed"], 0.0
    with torch.no_grad():
        clean = net(x).argmax(1) == y
    found = {}  # what a part breaks alone, it breaks within a list of parts, too
    for entry in record["attacks"]:
        if entry["name"] == "clean" or (names and entry["name"] not in names):
            continue
        right = clean.clone()
        for part in (p["name"] for p in entry.get("parts", [entry])):
            how = part, entry["eps"], entry.get("queries") if part == "square" else entry["steps"], entry.get("targets")
            how = how if part in ("apgd-t", "fab-t") else how[:3]
            if how in found:
                right &= ~found[how]
                continue
            left, broken = right.nonzero()[:, 0], torch.zeros_like(clean)
            if len(left):
                some = [index[i] for i in left]
                broken[left] = (own if peer == "own" else theirs)(net, part, entry, x[left], y[left], some, seed)
            if len(left) == clean.sum():
                found[how] = broken
            right &= ~broken
        at = head.index(entry["name"])
        mine = torch.tensor([r[at] == r[1] for r in rows])
        apart = 100 * abs(int(mine.sum()) - int(right.sum())) / len(rows)
        chance = peer == "torchattacks" and entry["name"] == "square"
        worst = max(worst, apart - (200 * int((mine != right).sum()) ** 0.5 / len(rows) if chance else 0))
        print("%s: adveval %d, %s %d of %d: %.2f points apart" % (entry["name"], mine.sum(), peer, right.sum(), len(rows), apart))
        print("    only adveval breaks %s" % [index[i] for i in (right & ~mine).nonzero()[:, 0]])
        print("    only the other breaks %s" % [index[i] for i in (mine & ~right).nonzero()[:, 0]], flush=True)
    return worst > float(bound)


sys.exit(main(*sys.argv[1:]))
