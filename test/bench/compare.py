#!/usr/bin/env python3
"""The engine beside PyTorch, measured in turns: compare.py BENCH_ENGINE NET [PYTHON]...

Every PYTHON that can import torch is a peer. For each measurement every peer first shows which of its variants is
fastest (memory format, compiled or not, allocator, what waiting threads do); then all check that they compute the same loss from the same
parameters and images; then they work in turns for ROUNDS rounds of SECONDS_EACH. Printed are medians (least..most),
and the median of the rounds' ratios, ours to theirs. All processes wait, silent, while another works.

Environment: BATCH, SECONDS_EACH, ROUNDS, MEASURES (some of infer train pgd10 pgd20 freeat), THREADS; VARIANT (four
words joined by commas, as they are printed) in place of the search for the fastest, which takes most of the time with
large networks. HERACLES_ISA=v3 ONEDNN_MAX_CPU_ISA=AVX2 holds both sides to AVX2.
"""
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# Losses agree to this share of them. Two sums of the same float32 products in another order, through 53 layers and an
# update, came out 2e-6 apart. An attack follows the sign of a gradient, which a rounding turns around here and there:
# 20 steps on 4 images and random weights made 7e-3.
TOLERANCE = {"infer": 1e-3, "train": 1e-3, "freeat": 1e-3, "pgd10": 2e-2, "pgd20": 2e-2}
# ResNet50's random weights on 8 images make gradients that hang on the last bit: the loss after the first update is
# 4.0054 in double (PyTorch), 4.0264 in double with every pixel moved by 6e-8 of itself, 4.0086 in PyTorch's float32 and
# 4.0192 in ours; PyTorch's float32 gradients are 1e-2 to 2e-2 from double's in all layers but the last, while its losses
# before the update agree to 5e-7.
LOOSE = 2e-2
# The allocator keeps what it has instead of asking the system for large blocks again and again.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}


class Worker:
    """A process that obeys lines (bench_engine.c and torch_worker.py say which); env: None removes a variable."""

    def __init__(self, command, env, stderr=None):
        env = {name: value for name, value in dict(os.environ, **env).items() if value is not None}
        self.process = subprocess.Popen([str(word) for word in command], env=env, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise EOFError("%s: status %d" % (" ".join(self.process.args), self.process.returncode))
        return line.strip()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Series:
    """A worker's rates, one per round, and its peak memory."""

    def __init__(self, worker):
        self.worker, self.rates, self.megabytes = worker, [], 0

    def turn(self, seconds):
        rate, self.megabytes = map(float, self.worker.ask("run %s" % seconds).split())
        self.rates.append(rate)

    def median(self):
        return statistics.median(self.rates)

    def ratios(self, other):
        return [a / b for a, b in zip(self.rates, other.rates)]


def spread(values, digits=1):
    return "%.*f (%.*f..%.*f)" % (digits, statistics.median(values), digits, min(values), digits, max(values))


class Peer:
    def __init__(self, python, dump, net, batch, threads):
        self.python, self.args, self.threads, self.best = python, (dump, net, batch), threads, {}

    def start(self, measure, variant, stderr=None):
        env = dict(TUNED if variant[2] == "tuned" else {}, OMP_WAIT_POLICY="passive" if variant[3] == "sleep" else None)
        return Worker([self.python, os.path.join(HERE, "torch_worker.py"), *self.args, measure, self.threads,
                       ",".join(variant)], env, stderr)

    def probe(self, measure, variant):
        """Seconds of a short step; infinite where PyTorch cannot do it."""
        try:
            worker = self.start(measure, variant, subprocess.DEVNULL)
            seconds = float(worker.ask("probe"))
            worker.close()
            return seconds
        except EOFError:
            return float("inf")

    def choose(self, measure):
        """The fastest variant, one choice after the other; or the one that VARIANT names."""
        if os.environ.get("VARIANT"):
            self.best[measure] = os.environ["VARIANT"].split(",")
            return self.start(measure, self.best[measure])
        best = ["nchw", "eager", "default", "spin"]
        least = self.probe(measure, best)
        for place, word in ((2, "tuned"), (3, "sleep"), (0, "nhwc"), (1, "compiled")):
            variant = best[:place] + [word] + best[place + 1:]
            seconds = self.probe(measure, variant)
            if seconds < least:
                best, least = variant, seconds
        self.best[measure] = best
        return self.start(measure, best)


def peers_of(pythons, dump, net, batch, threads):
    peers = []
    for python in pythons:
        code = "import sys; sys.path.append(sys.argv[1]); import torch_nets; sys.exit(sys.argv[2] not in torch_nets.NETS)"
        command = [python, "-c", code, os.path.join(HERE, "..", "peers"), net]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            peers.append(Peer(python, dump, net, batch, threads))
    return peers


def loss_of(answer):
    return float(answer.split()[1])


def measure(what, engine, net, batch, threads, peers, seconds, rounds):
    def engine_at(work, cores):
        return Series(Worker([engine, net, batch, work], {"OMP_NUM_THREADS": str(cores)}))

    ours, top = engine_at(what, threads), engine_at("peak", threads)
    checked = ours.worker.ask("check")
    loss, macs = loss_of(checked), float(checked.split()[3])
    tolerance = LOOSE if net == "ResNet50" and what != "infer" else TOLERANCE[what]
    single = [engine_at(what, 1), engine_at("peak", 1)] if threads > 1 else []
    others = []
    for peer in peers:
        worker = peer.choose(what)
        theirs = loss_of(worker.ask("check"))
        same = abs(theirs - loss) <= tolerance * max(abs(loss), 1)
        others.append((Series(worker), peer.best[what], "loss %.5f %s %.5f" % (loss, "=" if same else "DIFFERS FROM", theirs)))
    for _ in range(rounds):
        for series in [ours] + [o for o, _, _ in others] + [top] + single:
            series.turn(min(seconds, 0.5) if series is top or series is single[-1:] else seconds)
    flops = 2e-9 * macs * ours.median()
    print("%-7s ours          %30s images/s  %7.1f MB  %.0f GFLOP/s, %.0f %% of the peak's %.0f" %
          (what, spread(ours.rates), ours.megabytes, flops, 100 * flops / top.median(), top.median()))
    for series, variant, loss in others:
        print("        PyTorch %-7s%29s images/s  %7.1f MB  ratio %s  %s  %s" %
              (series.worker.about, spread(series.rates), series.megabytes, spread(ours.ratios(series), 2),
               " ".join(variant), loss))
    if single:
        gain, top_gain = statistics.median(ours.ratios(single[0])), statistics.median(top.ratios(single[1]))
        print("        1 to %d threads: gain %.2f, the peak's %.2f, quotient %.2f" % (threads, gain, top_gain, gain / top_gain))
    sys.stdout.flush()
    for series in [ours, top] + single + [o for o, _, _ in others]:
        series.worker.close()


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    engine, net, *pythons = sys.argv[1:]
    env = os.environ.get
    large = net == "ResNet50"
    batch, threads = int(env("BATCH") or (8 if large else 32)), int(env("THREADS") or len(os.sched_getaffinity(0)))
    seconds, rounds = env("SECONDS_EACH") or "2", int(env("ROUNDS") or 3)
    wanted = (env("MEASURES") or ("infer train freeat" if large else "infer train pgd10 pgd20")).split()
    with tempfile.NamedTemporaryFile(prefix="bench-") as dump:
        subprocess.run([engine, net, str(batch), "dump"], stdout=dump, check=True)
        peers = peers_of(pythons, dump.name, net, batch, threads)
        about = Worker([engine, net, batch, "peak"], {"OMP_NUM_THREADS": str(threads)})
        print("%s, batches of %d, %s, peers: %d; medians (least..most) of %d rounds of %s s" %
              (net, batch, about.about, len(peers), rounds, seconds), flush=True)
        about.close()
        for what in wanted:
            measure(what, engine, net, batch, threads, peers, float(seconds), rounds)


if __name__ == "__main__":
    try:
        main()
    except (EOFError, subprocess.CalledProcessError) as e:
        sys.exit("compare.py: %s" % e)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(1)
