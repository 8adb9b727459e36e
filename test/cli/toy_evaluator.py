#!/usr/bin/python3
"""A toy evaluator for ddpg-search: seven layers in a chain, worth most when neighbours are in proportion.

toy_evaluator.py table              the layer table (JSON)
toy_evaluator.py serve [FAULT]     answer strategies; FAULT is what goes wrong, N when:
    dead               leave at once           die:N, kill:N   leave with status 3, by signal 9, on request N,
    mute               no greeting                             every time
    text               a greeting that is no JSON    once:FILE   die on request 5, but only if FILE is missing
    names, counts, reg, other:FILE   a greeting for another network; other: only when started again
    nonsense:N id:N many:N error:N shrink:N   a wrong answer to request N
    twice:N late:N tail     two answers; none; words after the last
    pids:FILE          the process number is added to FILE at its third request
    term:N int:N slay:N   SIGTERM, SIGINT, SIGKILL for the search on request N; no answer
    digest:D           another digest
    constant           every network answers every image alike
    twofaced           every part gets one class, each part another
    slow:MS            every answer takes so long
    meet:N,DIR         no answer before N processes have a request (at most 20 s, then status 5)
"""
import json
import os
import sys
import time

COUNT = [12, 16, 24, 36, 32, 20, 10]
NEED = ([.75, .25, .55, .12, .2, .45, .6], [.55, .45, .30, .20, .15, .60, .5])
POWER = [.3, 1.6, .3, .3, 1.6, .3]
LEAST = [.2, .5, .2, .2, .5, .2]
IMAGES = 10000
BATCHES = 12
SIGNALS = {"term": 15, "int": 2, "slay": 9}


def pair(need, i, a, b):
    weaker = min(a / COUNT[i] / need[i], b / COUNT[i + 1] / need[i + 1], 1)
    return LEAST[i] + (1 - LEAST[i]) * weaker ** POWER[i]


def accuracy(kept, need):
    share = 1
    for i in range(len(COUNT) - 1):
        share *= pair(need, i, kept[i], kept[i + 1])
    return share


def counts(kept):
    return round(.9 * IMAGES * accuracy(kept, NEED[0])), round(.6 * IMAGES * accuracy(kept, NEED[1]))


def part(whole, batches):
    """What falls into a range of batches."""
    a, b = (whole * i // BATCHES for i in batches)
    return b - a


def meet(n, where):
    """Wait until n processes are here."""
    os.makedirs(where, exist_ok=True)
    open(os.path.join(where, str(os.getpid())), "w").close()
    for _ in range(2000):
        if len(os.listdir(where)) >= n:
            return
        time.sleep(.01)
    sys.exit(5)


def table():
    layers = [{"name": f"fc{i}", "op": "linear", "in": n, "out": 1, "kernel": [1, 1], "stride": 1, "pad": 0,
               "hin": 1, "win": 1, "hout": 1, "wout": 1, "weights": n, "macs": n, "tie": None,
               "weight_index": i, "channel_index": i, "torch_index": i} for i, n in enumerate(COUNT)]
    return {"arch": "chain", "input": [1, 1, 1], "classes": 10, "params": 150, "weights": 150, "macs": 150,
            "layers": layers}


def greeting(fault, arg, again):
    layers = [{"name": f"fc{i}", "n": n} for i, n in enumerate(COUNT)]
    if fault == "names":
        layers[2]["name"] = "conv2"
    if fault == "counts":
        layers[2]["n"] = 25
    return {"proto": 1, "reg": "channel" if fault == "reg" else "weight", "layers": layers, "batches": BATCHES,
            "images": IMAGES, "digest": arg if fault == "digest" else "cafe" if fault == "other" and again else "5eed"}


def say(line):
    print(line, flush=True)


def serve(fault="", *_):
    fault, _, arg = fault.partition(":")
    again = fault in ("once", "other") and os.path.exists(arg)
    if fault == "dead":
        sys.exit(4)
    if fault == "mute":
        time.sleep(60)
    say("hello there" if fault == "text" else json.dumps(greeting(fault, arg, again)))
    heard = 0
    for line in sys.stdin:
        request = json.loads(line)
        heard += 1
        batches = request["batches"]
        assert 0 <= batches[0] < batches[1] <= BATCHES
        n, clean, robust = (part(x, batches) for x in (IMAGES, *counts(request["kept"])))
        answer = {"id": request["id"], "n": n, "clean": clean, "robust": robust, "params": 45, "macs": 45}
        if fault in ("once", "other") and heard == 5 and not again:
            open(arg, "w").close()
            sys.exit(3)
        if fault == "pids" and heard == 3:
            with open(arg, "a") as pids:
                pids.write(f"{os.getpid()}\n")
        if fault == "constant":
            answer.update({"clean": n // 10, "robust": n // 10, "constant": True, "class": 7})
        if fault == "twofaced" and batches != [0, BATCHES]:
            answer.update({"constant": True, "class": batches[0]})
        if fault == "slow":
            time.sleep(int(arg) / 1000)
        if fault == "meet":
            meet(int(arg.split(",")[0]), arg.split(",")[1])
        if heard == (int(arg) if arg.isdigit() else 0):
            if fault == "die":
                sys.exit(3)
            if fault == "kill":
                os.kill(os.getpid(), 9)
            if fault in SIGNALS:
                os.kill(os.getppid(), SIGNALS[fault])
                sys.stdin.read()  # until it is dead, or we are
                sys.exit()
            if fault == "late":
                time.sleep(60)
            if fault == "id":
                answer["id"] += 1
            if fault == "many":
                answer["robust"] = IMAGES + 1
            if fault == "shrink":
                answer["n"] -= 100
            if fault == "error":
                answer = {"id": answer["id"], "error": "the holdout is gone"}
            if fault == "nonsense":
                answer = ["what?"]
            if fault == "twice":
                os.write(1, (json.dumps(answer) + "\n").encode())
        say(json.dumps(answer))
    if fault == "tail":
        say("goodbye")


if __name__ == "__main__":
    {"table": lambda *_: say(json.dumps(table())), "serve": serve}[sys.argv[1]](*sys.argv[2:])
