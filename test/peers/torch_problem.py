"""What the peers of peer_steps.c share: the problem that it prints, and how a peer prints what it does."""
import math
import sys

import numpy as np
import torch

from torch_nets import ResNetSmall, Stream

EPS, STEP, PGD, LR, MOMENTUM, DECAY, BATCHES, REPEATS, BETA, RHO = 8 / 255, 2 / 255, 3, 0.05, 0.9, 1e-3, 5, 4, 6.0, 0.1


def put(name, v):
    a = np.ascontiguousarray(v.detach().numpy(), dtype="<f8")
    sys.stdout.buffer.write(b"array %s f8 %d\n" % (name.encode(), a.size) + a.tobytes())


class Problem:
    """kind, reg; kept by layer; names of what is trained and of running statistics that move; the network; its batches."""

    def __init__(self, file):
        stream, state = Stream(file), {}
        self.kept, self.trainees, self.moving, self.batches = {}, [], [], []
        while True:
            name, got = stream.next()
            if name is None:
                sys.exit("the problem ends early")
            if name == "end":
                break
            if name == "kind":
                self.kind, self.reg = got
            elif name == "kept":
                self.kept[got[0]] = int(got[1])
            elif name == "trainee":
                self.trainees.append(got[0])
            elif name == "moving":
                self.moving.append(got[0])
            elif name.startswith("param."):
                state[name[6:]] = torch.from_numpy(got.astype(np.float64))
            elif name == "batch.x":
                self.side = math.isqrt(got.size // 16)
                self.batches.append([torch.from_numpy(got.astype(np.float64)).reshape(-1, 1, self.side, self.side)])
            else:
                self.batches[-1].append(torch.from_numpy(got.astype(np.int64)).flatten())
        self.net = ResNetSmall(1, 16, 2, 3, 1)
        for key, v in self.net.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                v.copy_(state[key].reshape(v.shape))
        self.net.train()

    def rate(self, step):
        if self.kind.startswith("retrain"):  # up within two epochs, then a tenth from the fourth one on
            ramp = 1e-4 + (LR - 1e-4) * step / (2 * BATCHES)
            return ramp if step < 2 * BATCHES else LR * (0.1 if step >= 3 * BATCHES else 1)
        return LR * 0.5 * (1 + math.cos(math.pi * step / (4 * BATCHES)))

    def put_state(self, params, optimizer, buffers, z, u, noise):
        """params, z, u, buffers by name."""
        for n in self.trainees:
            put(n, params[n])
            buf = optimizer.state[params[n]].get("momentum_buffer")
            put("momentum", torch.zeros_like(params[n]) if buf is None else buf)
            if self.kind.startswith("admm") and n.endswith(".weight") and n[:-7] in self.kept:
                put("z", z.get(n, torch.zeros_like(params[n])))
                put("u", u.get(n, torch.zeros_like(params[n])))
        for n in self.moving:
            put(n, buffers[n])
        if self.kind == "free":
            put("noise", noise)
