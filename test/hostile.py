"""Bad input and bad output of every kind for every tool: `hostile.py CLAIM` runs a table of commands.

A case is a tool's command line with one hostile thing in it. Every command runs in a directory whose file
names beginning with "out" were written by an older run; it must then be refused (`Bench.refused`): status 1,
one line on standard error that names the culprit, nothing on standard output, no partial file, the older files
as they were, all of it within LIMIT seconds. Where damage cannot be told from another valid file
(`Bench.either`), success without a word is right too. CLAIM is a function at the end of this file; it prints
what it found wrong and ends with the number of commands that it ran.
"""
import hashlib
import json
import os
import resource
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

BIN = os.environ["BIN"]
LIMIT = 20  # seconds; a command takes some 20 ms
SANITIZED = b"__asan_init" in open(os.path.join(BIN, "nninfo"), "rb").read()

# ---- sound files ------------------------------------------------------------------------------------------

TABLE = [0] * 256
for byte in range(256):
    c = byte
    for _ in range(8):
        c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    TABLE[byte] = c


def crc32c(data):
    crc = 0xFFFFFFFF
    for b in data:
        crc = crc >> 8 ^ TABLE[(crc ^ b) & 255]
    return crc ^ 0xFFFFFFFF


def noise(n):
    """n bytes that look random and are the same every time."""
    out = b""
    while len(out) < n:
        out += hashlib.sha256(b"%d" % len(out)).digest()
    return out[:n]


def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def tagged(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(key, value):
    if isinstance(value, bytes):
        value = tagged(1, tagged(1, value))
    else:
        value = tagged(3, tagged(1, varint(value)))
    return tagged(1, tagged(1, key.encode()) + tagged(2, value))


def image(i, label=None, side=8, pixels=None):
    if pixels is None:
        pixels = noise(side * side + i)[i:]
    return tagged(
        1,
        feature("image/encoded", pixels)
        + feature("image/class/label", i % 10 if label is None else label)
        + feature("image/height", side)
        + feature("image/width", side),
    )


def masked(data):
    """The check sum of a tfrecord file, as it stores it."""
    crc = crc32c(data)
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)


def framed(records):
    heads = [(struct.pack("<Q", len(r)), r) for r in records]
    return b"".join(h + masked(h) + r + masked(r) for h, r in heads)


def idx(magic, sizes, data):
    return struct.pack(">I%dI" % len(sizes), magic, *sizes) + data


def gz(data):
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    return squeeze.compress(data) + squeeze.flush()


def frames(nn):
    """[offset, payload] of every frame of a .nn file."""
    at, out = 0, []
    while at < len(nn):
        (n,) = struct.unpack(">I", nn[at + 2 : at + 6])
        out.append([at, nn[at + 6 : at + 6 + n]])
        at += n + 11
    return out


def rebuild(payloads):
    """A .nn file of these payloads with right checksums: frame 1 is the notes, the last one the trailer."""
    sha = hashlib.sha256(b"".join(payloads[:1] + payloads[2:-1])).hexdigest().encode()
    old = payloads[-1][payloads[-1].index(b"sha256") + 8 :][:64]
    payloads = payloads[:-1] + [payloads[-1].replace(old, sha)]
    return b"".join(b"\x92\xc6" + struct.pack(">I", len(p)) + p + b"\xce" + struct.pack(">I", crc32c(p)) for p in payloads)


# ---- the bench --------------------------------------------------------------------------------------------


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return path


IDX_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
OLDER = ["out.nn", "out.pth", "out.json", "out.txt", "out.tsv", "out.csv", "out.tex", "out.svg"] + [
    "outdir/" + n
    for n in ["train.tfrecord", "test.tfrecord", "holdout.tfrecord", "rest.tfrecord", "manifest.json"]
    + ["Episode_wise_Rewards.csv", "Best_Rewards.csv", "rewards.svg"]
]

# kind of the hostile input, and a command with {} in its place
SERVE = "adveval --serve -q --threads 1 --batch 40 --steps 1 -r weight "
SLOTS = [
    ("nn", "nninfo -o out.txt {}"),
    ("nn", "maskapply -q -s uniform:0.5 --report out.tsv --strategy-out out.json -o out.nn {}"),
    ("nn", "adveval -q --threads 1 --attacks clean -d data.tfrecord -o out.json {}"),
    ("nn", SERVE + "-d data.tfrecord {}"),
    ("nn", "advtrain -q --threads 1 --loss natural --epochs 1 --batch 20 -d data.tfrecord -o out.nn {}"),
    ("tfrecord", "adveval -q --threads 1 --attacks clean -d {} -o out.json net.nn"),
    ("tfrecord", SERVE + "-d {} net.nn"),
    ("tfrecord", "advtrain -q --threads 1 --loss natural --epochs 1 --batch 20 -d {} -o out.nn net.nn"),
    ("tfrecord", "advtrain -q --threads 1 --loss natural --epochs 1 --batch 20 -d data.tfrecord -e {} -o out.nn net.nn"),
    ("strategy", "maskapply -q -s {} --report out.tsv --strategy-out out.json -o out.nn net.nn"),
    ("strategy", "maskapply -q -s {}:resS/weight/uniform:0.5 -o out.nn net.nn"),
    ("strategy", "stgplot -q -o out {}"),
    ("layers", "ddpg-search -q -l {} -e 'sh evaluator' -t 0.3 --warmup 1 -n 0 --hidden 8 --csv-dir outdir -o out.json"),
    ("layers", "stgplot -q --layers {} -o out strategy.json"),
    ("record", "summarize --csv out.csv --latex out.tex -o out.txt {}"),
    ("record", "summarize --history -o out.txt {}"),
    ("nn", "nn2torch -o out.pth {}"),
    ("pth", "torch2nn -q -o out.nn {}"),
    ("safetensors", "torch2nn -q -o out.nn {}"),
] + [("idx", "tfrec-convert -q --set idx --holdout 0.3 -o outdir {src/%s}" % n) for n in IDX_FILES]


class Bench:
    def __init__(self):
        self.runs, self.faults = 0, 0
        self.env = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"], OMP_WAIT_POLICY="passive")
        os.chdir(tempfile.mkdtemp(prefix="hostile."))
        self.make_files()
        self.make_older()

    def tool(self, line):
        subprocess.run(shlex.split(line), env=self.env, check=True, stdout=subprocess.PIPE)

    def make_files(self):
        mknn = os.path.join(os.path.dirname(BIN), "test", "mknn")
        subprocess.run([mknn, "resS:1x8x8", "1", "net.nn"], check=True)
        write("data.tfrecord", framed(image(i) for i in range(40)))
        self.tool("nninfo -f json -o layers.json net.nn")
        self.tool("maskapply -q -s uniform:0.5 --strategy-out strategy.json -o pruned.nn net.nn")
        self.tool("adveval -q --threads 1 --attacks clean,fgsm -d data.tfrecord -o record.json net.nn")
        self.tool("nn2torch -o net.pth net.nn")
        self.tool("nn2torch -o net.safetensors net.nn")
        layers = json.loads(read("layers.json"))["layers"]
        self.greeting = {
            "proto": 1,
            "reg": "weight",
            "layers": [{"name": l["name"], "n": l["weights"]} for l in layers],
            "batches": 2,
            "images": 100,
            "digest": "ab",
        }
        write("greeting", json.dumps(self.greeting) + "\n")
        # counts up with the requests, as ours do
        write(
            "evaluator",
            'cat greeting; i=0; while read -r line; do i=$((i+1)); echo "{\\"id\\":$i,\\"n\\":100,\\"clean\\":80,\\"robust\\":50}"; done\n',
        )
        os.mkdir("src")
        labels = bytes(i % 2 for i in range(20))
        write("src/" + IDX_FILES[0], idx(0x803, [20, 3, 2], noise(120)))
        write("src/" + IDX_FILES[1], idx(0x801, [20], labels))
        write("src/" + IDX_FILES[2], idx(0x803, [6, 3, 2], noise(36)))
        write("src/" + IDX_FILES[3], idx(0x801, [6], labels[:6]))
        self.good = {
            "nn": "net.nn",
            "tfrecord": "data.tfrecord",
            "strategy": "strategy.json",
            "layers": "layers.json",
            "record": "record.json",
            "pth": "net.pth",
            "safetensors": "net.safetensors",
        }

    def make_older(self):
        shutil.rmtree("outdir", ignore_errors=True)
        os.mkdir("outdir")
        for name in OLDER:
            write(name, "older " + name)

    def older_changed(self):
        seen = {}
        for directory in [".", "outdir"]:
            for name in os.listdir(directory):
                path = os.path.normpath(os.path.join(directory, name))
                if name.endswith(".partial"):
                    return path + " was left behind"
                if name.startswith("out") and name.endswith(".state"):  # what long work had reached: no output, and not for the next line
                    os.remove(path)
                    continue
                if name.startswith("out") and os.path.isfile(path) or directory == "outdir":
                    seen[path] = read(path)
        for name in OLDER:
            if seen.pop(name, b"") != b"older " + name.encode():
                return "the older %s is not what it was" % name
        return "%s was left behind" % min(seen) if seen else None

    def run(self, line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, memory=0, size=0):
        """line in a shell; memory and size limit its address space and its files, in bytes."""

        def limits():
            if memory and not SANITIZED:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            if size:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        self.runs += 1
        feed = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        p = subprocess.run(
            ["timeout", str(LIMIT), "sh", "-c", "exec " + line],
            env=self.env, stdout=stdout, stderr=subprocess.PIPE, preexec_fn=limits, **feed
        )
        return p.returncode, p.stdout or b"", p.stderr.decode(errors="replace")

    def fault(self, line, what, status, stderr):
        self.faults += 1
        if self.faults <= 30:
            print("%s\n    %s (status %d, stderr %r)" % (line, what, status, stderr[-600:]))
        self.make_older()

    def refused(self, line, name="", status=1, words=None, **how):
        """line ends with this status and one line that holds name and words, and changes nothing."""
        got, out, err = self.run(line, **how)
        lines = 1 if status == 1 else 2  # misuse hints at --help
        changed = self.older_changed()
        tool = line.split()[0]
        if got != status:
            self.fault(line, "status %d is due" % status, got, err)
        elif err.count("\n") != lines or not err.startswith(tool + ": "):
            self.fault(line, "%d line of %s is due" % (lines, tool), got, err)
        elif name not in err:
            self.fault(line, "'%s' should be named" % name, got, err)
        elif words and words not in err:
            self.fault(line, "'%s' should be said" % words, got, err)
        elif out and how.get("stdout", subprocess.PIPE) == subprocess.PIPE:
            self.fault(line, "%d bytes on standard output" % len(out), got, err)
        elif changed:
            self.fault(line, changed, got, err)

    def either(self, line, name="", **how):
        """line is refused, or a success that has nothing but warnings to say."""
        got, out, err = self.run(line, **how)
        if got == 0:
            if any(": warning: " not in l for l in err.splitlines()):
                self.fault(line, "a success that talks", got, err)
            self.make_older()
            return
        changed = self.older_changed()
        if got != 1:
            self.fault(line, "status 0 or 1 is due", got, err)
        elif err.count("\n") != 1 or name not in err:
            self.fault(line, "one line with '%s' is due" % name, got, err)
        elif changed:
            self.fault(line, changed, got, err)

    def slot(self, check, command, path, data=None, **how):
        """check a command of SLOTS with path (or a file of that name with data) in its place."""
        if "{src/" in command:
            name = command[command.index("{") + 1 : command.index("}")]
            directory = tempfile.mkdtemp(prefix="src.", dir=".")
            for n in IDX_FILES:
                if data is None or "src/" + n != name:
                    os.symlink(os.path.abspath("src/" + n), os.path.join(directory, n))
            target = os.path.join(directory, os.path.basename(name))
            suffix = how.pop("suffix", "")
            if data is None:
                os.remove(target)
                if path != "missing":
                    os.symlink(os.path.abspath(path), target)
            else:
                write(target + suffix, data)
            check(command.replace("{" + name + "}", directory), name=os.path.normpath(target) if how.pop("named", True) else "", **how)
            shutil.rmtree(directory)
            return
        if data is not None:
            write(path, data)
        check(command.format(path), name=path if how.pop("named", True) else "", **how)

    def bytes_of(self, kind, command):
        return read(command[command.index("{") + 1 : command.index("}")] if kind == "idx" else self.good[kind])

    def end(self):
        print("%d commands, %d at fault" % (self.runs, self.faults))
        sys.exit(1 if self.faults else 0)


# ---- claims: inputs ---------------------------------------------------------------------------------------


def foreign(b):
    """What is no file of the kind at all."""
    os.mkdir("directory")
    write("empty", b"")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    write("one-byte", b"\n")
    write("text", "This is a letter,\nnot a data file.\n")
    write("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + noise(500))
    write("model.pth", b"PK\x03\x04" + noise(500))
    write("noise", noise(1024))
    write("zeros", bytes(65536))
    write("deep.json", "[" * 100000)
    write("list.json", "[1, 2]")
    write("number.json", "7")
    things = ["missing", "empty", "directory", "dangling", "loop", "text/x", "one-byte", "text", "picture.png", "model.pth"]
    things += ["noise", "zeros", "/dev/zero", "deep.json", "list.json", "number.json", "pruned.nn", "src/" + IDX_FILES[0]]
    things += list(b.good.values())
    with_history = ["strategy.json", "record.json"]
    for kind, command in SLOTS:
        for thing in things:
            if thing == b.good.get(kind) or kind == "nn" and thing == "pruned.nn" or kind == "idx" and thing == "text/x":
                continue
            if "torch2nn" in command and thing in ("net.pth", "net.safetensors"):
                continue
            if thing == "src/" + IDX_FILES[0] and IDX_FILES[0] in command or "--history" in command and thing in with_history:
                continue
            b.slot(b.refused, command, thing)


def cut(b):
    """Files and streams that end too early."""
    for kind, command in SLOTS:
        whole = b.bytes_of(kind, command)
        n = len(whole)
        places = {0, 1, n // 4, n // 2, n - 1}
        if kind == "nn" and command.startswith("nninfo"):
            first = frames(whole)
            for at, payload in first[:6] + first[-2:]:
                places |= {at, at + 1, at + 2, at + 5, at + 6, at + 6 + len(payload), at + 7 + len(payload)}
        if kind == "tfrecord":
            length = n // 40  # of a record; a file cut between two of them is a sound shorter one
            places |= {7, 8, 11, 12, 13, length - 5, length - 4, length - 1, length + 8, length + 12, 2 * length - 4}
            places -= {i * length for i in range(1, 40)}
        if kind == "idx":
            places |= {3, 4, 7, 8, 11, 12, 16}
        if kind in ("strategy", "layers", "record"):
            places |= set(range(0, n - 1, 61))
            places = {p for p in places if whole[:p].strip() != whole.strip()}
        for place in sorted(p for p in places if p < n):
            b.slot(b.refused, command, "cut", whole[:place])
            if kind in ("nn", "tfrecord", "pth", "safetensors") and SERVE not in command:
                b.refused(command.format("-"), name="<stdin>", stdin=whole[:place])
        if kind == "idx":
            packed = gz(whole)
            for place in {1, 9, 10, len(packed) // 2, len(packed) - 8, len(packed) - 1}:
                b.slot(b.refused, command, "cut", packed[:place], suffix=".gz")
    # Cut between two records it is a sound tfrecord file: the manifest beside it knows better.
    b.tool("tfrec-convert -q --set idx --holdout 0.3 -o converted src")
    whole = read("converted/test.tfrecord")
    for data in [whole[: len(whole) // 6 * 5], whole + whole[: len(whole) // 6], read("converted/holdout.tfrecord")]:
        write("converted/test.tfrecord", data)
        for kind, command in SLOTS:
            if kind == "tfrecord":
                b.refused(command.format("converted/test.tfrecord"), "converted/test.tfrecord", words="manifest.json")


def flipped(data, at, mask):
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def spread(n, count):
    return sorted({i * (n - 1) // max(1, count - 1) for i in range(count)})


def flips(b):
    """One damaged byte: always refused behind a checksum."""
    for kind, command in SLOTS:
        whole = b.bytes_of(kind, command)
        if kind == "nn":
            many = command.startswith("nninfo")
            for i, at in enumerate(list(range(40 if many else 0)) + spread(len(whole), 80 if many else 8)):
                b.slot(b.refused, command, "flipped", flipped(whole, at, 1 << i % 8))
        elif kind == "tfrecord":
            length = len(whole) // 40
            first = command.startswith("adveval -q")
            for i, at in enumerate(list(range(length)) if first else spread(len(whole), 12)):
                b.slot(b.refused, command, "flipped", flipped(whole, at, 1 << i % 8))


def states(b):
    """A saved state that is cut, damaged or something else is refused and stays for its owner to discard."""
    commands = [
        ("s.nn", "advtrain -q --threads 1 --loss natural --epochs 3 --batch 20 --save-every 0 -d data.tfrecord -o s.nn net.nn"),
        ("s.json", "adveval -q --threads 1 --attacks clean,fgsm --save-every 0 -d data.tfrecord -o s.json net.nn"),
    ]
    for product, command in commands:
        state = product + ".state"
        b.run("env HERACLES_CRASH=renamed:1 " + command)  # killed when its first state is there
        whole = read(state)
        cuts = {0, 1, 8, 16, 19, 20, len(whole) // 2, len(whole) - 1}
        bad = [whole[:at] for at in cuts] + [whole + b"x", noise(1024), read("net.nn"), read("record.json")]
        bad += [flipped(whole, at, 1 << at % 8) for at in list(range(24)) + spread(len(whole), 30)]
        for data in bad:
            write(state, data)
            b.refused(command, name=state, words="--restart discards it")
            if os.path.exists(product) or read(state) != data:
                b.fault(command, "%s was written, or its state changed" % product, 1, "")
        os.remove(state)
        os.mkdir(state)
        b.refused(command, name=state)
        os.rmdir(state)
        write(state, whole)
        b.either(command)
        if not os.path.exists(product) or os.path.exists(state):
            b.fault(command, "the sound state was not gone on from", 0, "")


def flips_of_others(b):
    """One damaged byte in a file without checksum: refused, or another valid file."""
    for kind, command in SLOTS:
        if kind in ("nn", "tfrecord"):
            continue
        whole = b.bytes_of(kind, command)
        for i, at in enumerate(spread(len(whole), 30)):
            b.slot(b.either, command, "flipped", flipped(whole, at, 1 << i % 8), # a layer that has another name now fits no strategy: either file may be blamed
                   named=kind != "idx" and "ddpg" not in command and "--layers {" not in command)


def flips_of_gzip(b):
    """A damaged gzip file is refused, or unpacks to the same bytes: nothing vouches for the time, flags and system
    in its head."""
    line = "tfrec-convert -q --set idx --holdout 0.3 -o outdir "
    os.mkdir("packed")
    b.tool(line + "src")
    for name in IDX_FILES:
        write("packed/%s.gz" % name, gz(read("src/" + name)))
    sound = {n: read("outdir/" + n) for n in os.listdir("outdir") if n.endswith(".tfrecord")}
    b.make_older()
    for name in IDX_FILES[:2]:
        path = "packed/%s.gz" % name
        whole = read(path)
        accepted = set()
        for at in range(len(whole)):
            write(path, flipped(whole, at, 1 << at % 8))
            status, out, err = b.run(line + "packed")
            if status == 0:
                accepted.add(at)
                if any(read("outdir/" + n) != data for n, data in sound.items()):
                    b.fault(line, "byte %d of %s is damaged and its data was taken" % (at, name), status, err)
                b.make_older()
            elif status != 1 or err.count("\n") != 1 or path not in err or b.older_changed():
                b.fault(line, "byte %d of %s: one line is due, and nothing changed" % (at, name), status, err)
        head = set(range(3, 10))
        if not accepted <= head | {len(whole) - 9}:  # the deflate stream may end in bits that mean nothing
            b.fault(line, "damage at %s of %s was taken" % (sorted(accepted - head), name), 0, "")
        write(path, whole)


def lies(b):
    """Lengths that the file or the stream does not hold take no memory: 1 GB of address space is enough to say so."""
    room = dict(memory=1 << 30)
    net = read("net.nn")
    parts = [p for _, p in frames(net)]
    huge = rebuild(parts[:2] + [parts[2].replace(b"shape\x94\x10\x01\x03\x03", b"shape\x94\xce\x20\0\0\0\x01\x03\x03")] + parts[3:])
    if huge == net:
        b.fault("net.nn", "its first tensor is not what this test takes it for", 0, "")
    cases = [("nn", net[:2] + b"\xff\xff\xff\xff" + net[6:]), ("nn", net[:2] + b"\0\x40\0\0" + net[6:]), ("nn", huge)]
    for n in [1 << 62, 0x7FFFFFFF, 1 << 30, 100000]:
        head = struct.pack("<Q", n)
        cases.append(("tfrecord", head + masked(head) + noise(1000)))
    for kind, data in cases:
        for slot, command in SLOTS:
            if slot == kind:
                b.slot(b.refused, command, "lying", data, **room)
            if slot == kind and SERVE not in command:
                b.refused(command.format("-"), name="<stdin>", stdin=data, **room)
    # an image of 4 MB on a pipe: the reader may not make room for a thousand of them
    data = framed([image(0, side=2048, pixels=bytes(1 << 22))])
    for slot, command in SLOTS:
        if slot == "tfrecord" and SERVE not in command and " -e " not in command:
            b.refused(command.format("-"), words="the network net.nn takes 1x8x8", stdin=data, **room)


def wrong(b):
    """Sound files that do not fit, and numbers that cannot be."""
    net = read("net.nn")
    parts = [p for _, p in frames(net)]
    data_at = next(i for i, p in enumerate(parts) if i > 2 and len(p) == 576)  # conv1.weight, 144 floats

    def with_floats(pattern):
        return rebuild(parts[:data_at] + [pattern * 144] + parts[data_at + 1 :])

    nets = {
        "version.nn": (rebuild([parts[0].replace(b"version\x01", b"version\x02")] + parts[1:]), "version 2"),
        "nan.nn": (with_floats(b"\0\0\xc0\x7f"), "conv1.weight"),
        "inf.nn": (with_floats(b"\0\0\x80\x7f"), "conv1.weight"),
        "ten.nn": (rebuild(parts[:-2] + parts[-1:]), ""),
        "twice.nn": (net + net, "bytes follow"),
    }
    mknn = os.path.join(os.path.dirname(BIN), "test", "mknn")
    for kind, command in SLOTS:
        if kind == "nn":
            for name, (data, words) in nets.items():
                # nninfo shows such weights, and is strict when told to
                strict = name in ("nan.nn", "inf.nn") and command.startswith("nninfo ")
                b.slot(b.refused, command.replace("nninfo", "nninfo --strict", strict), name, data, words=words)
    for size, name in [("3x8x8", "colour.nn"), ("1x9x9", "large.nn")]:
        subprocess.run([mknn, "resS:" + size, "1", name], check=True)
        for kind, command in SLOTS:
            if kind == "nn" and "data.tfrecord" in command:
                b.slot(b.refused, command, name, words=size)
    # more memory than there is: half a terabyte
    subprocess.run([mknn, "resS:1x224x224", "1", "wide.nn"], check=True)
    write("wide.tfrecord", framed([image(0, side=224)]))
    b.refused("adveval -q --threads 1 --batch 65536 --attacks clean -d wide.tfrecord -o out.json wide.nn", words="GB of memory")

    sets = {
        "zero-images": (b"", "holds no images"),
        "label-10": (framed([image(0), image(1, label=10)]), "label 10 is outside 0..9"),
        "label-minus": (framed([image(0, label=-1)]), "label -1 is outside 0..9"),
        "label-huge": (framed([image(0, label=1 << 62)]), "is outside 0..9"),
        "two-sizes": (framed([image(0), image(1, side=9)]), "1x9x9"),
        "other-size": (framed([image(0, side=9)]), "1x9x9"),
        "few-pixels": (framed([image(0, pixels=bytes(63))]), "63 bytes"),
        "no-pixels": (framed([image(0, pixels=b"")]), "bytes"),
        "colours": (framed([image(0, pixels=bytes(192))]), "3x8x8"),
        "five-channels": (framed([image(0, pixels=bytes(320))]), "320 bytes"),
        "side-0": (framed([image(0, side=0)]), "image/height"),
        "side-huge": (framed([image(0, side=1 << 40, pixels=b"x")]), "image/height"),
        "side-minus": (framed([image(0, side=-8, pixels=bytes(64))]), "image/height"),
        "png-inside": (framed([image(0, pixels=b"\x89PNG\r\n\x1a\n" + noise(90))]), "PNG"),
        "no-label": (framed([tagged(1, feature("image/height", 8))]), "image/"),
        "no-example": (framed([noise(300)]), "not a tf.train.Example"),
        "empty-record": (framed([b""]), "missing"),
        "text-record": (framed([b"hello"]), ""),
    }
    for kind, command in SLOTS:
        if kind == "tfrecord":
            for name, (data, words) in sets.items():
                if name.startswith("label") and "advtrain" in command and " -e " not in command:
                    words = "label" if name != "label-10" else "11 classes"  # read before the network is
                b.slot(b.refused, command, name, data, words=words)


def strategies(b):
    """Strategies that are too short, name what is not there, or hold rates outside (0,1]."""
    entry = json.loads(read("strategy.json"))["resS"]["weight"]["uniform:0.5"]
    names = entry["layers"]

    def strategy(**change):
        e = {"layers": names, "rates": entry["rates"], "kept": entry["kept"]}
        e.update(change)
        return {k: v for k, v in e.items() if v is not None}

    def rates(first):
        return [first] + [0.5] * 9

    entries = {
        "short": [0.5] * 9,
        "long": [0.5] * 11,
        "no-rates": [],
        "rate-0": rates(0),
        "rate-minus": rates(-0.5),
        "rate-above": rates(1.0000001),
        "rate-text": rates("0.5"),
        "rate-null": rates(None),
        "rate-true": rates(True),
        "rate-list": rates([0.5]),
        "text": "0.5",
        "null": None,
        "named-short": strategy(layers=names[:9], rates=entry["rates"][:9], kept=None),
        "named-unequal": strategy(rates=entry["rates"][:9]),
        "unknown-name": strategy(layers=["conv9"] + names[1:]),
        "no-name": strategy(layers=[3] + names[1:]),
        "twice": strategy(layers=[names[1]] + names[1:]),
        "no-layers": strategy(layers=None),
        "no-list": strategy(rates=None),
        "named-rate-0": strategy(rates=rates(0), kept=None),
        "named-rate-2": strategy(rates=rates(2), kept=None),
        "kept-0": strategy(kept=[0] + entry["kept"][1:]),
        "kept-huge": strategy(kept=[1 << 62] + entry["kept"][1:]),
        "kept-real": strategy(kept=[72.0] + entry["kept"][1:]),
        "kept-other": strategy(kept=[73] + entry["kept"][1:]),
    }
    texts = {n: json.dumps({"resS": {"weight": {"a": e}}}) for n, e in entries.items()}
    texts.update(
        {
            "duplicate-key": '{"resS": {"weight": {"a": [0.5], "a": [0.5]}}}',
            "overflow": texts["rate-0"].replace("[0,", "[1e999,"),
            "nan": texts["rate-0"].replace("[0,", "[NaN,"),
            "long-number": texts["rate-0"].replace("[0,", "[%s," % ("9" * 400)),
            "two-documents": texts["kept-real"] * 2,
            "not-utf8": b'{"resS": {"weight": {"\xff": [0.5]}}}',
            "nul-key": '{"resS": {"weight": {"a\\u0000b": [0.5]}}}',
            "escapes": '{"re\\u001b[31m\\n": {"weight": {"a\\nb\\t": [0.5]}}}',
            "many": '{"resS": {"weight": {"a": [%s]}}}' % ",".join(["0.5"] * 300000),
            "another-kind": json.dumps({"resS": {"channel": {"a": [0.5] * 10}}}),
            "no-kind": json.dumps({"resS": {"filter": {"a": [0.5] * 10}}}),
            "flat": json.dumps({"resS": [0.5] * 10}),
            "two-entries": json.dumps({"resS": {"weight": {"a": [0.5] * 10, "b": [0.5] * 10}}}),
        }
    )
    for name, text in texts.items():
        b.slot(b.refused, SLOTS[9][1], name, text)
        # a figure does not know the network: lists of any length are strategies there
        b.slot(b.either, "stgplot -q -o out {}", name, text)
        b.slot(b.either, "stgplot -q --layers layers.json -o out {}", name, text)
    for spec in ["uniform:0", "uniform:1.5", "uniform:-0.5", "uniform:nan", "uniform:1e-400", "erk:", "lamp:x", "foo:0.5", ":", ""]:
        b.refused("maskapply -q -o out.nn -s '%s' net.nn" % spec, status=2)
    b.refused("maskapply -q -o out.nn -s strategy.json:resS/weight/none net.nn", "strategy.json")
    b.refused("maskapply -q -o out.nn -s strategy.json:none/weight/a net.nn", "strategy.json")


def tables(b):
    """Layer tables and records with fields missing, of other types, out of range."""
    odd = [None, True, -1, 0, 0.5, 1e300, 1 << 62, "x", "", [], {}, [[]], ["\u0001\u00e9"]]

    def spoil(document, path):
        """document with every value at path in turn missing or replaced, by some of the odd ones each."""
        for i, key in enumerate(path[-1]):
            for new in ["missing"] + [odd[(3 * i + k) % len(odd)] for k in range(3)]:
                copy = json.loads(json.dumps(document))
                at = copy
                for step in path[:-1]:
                    at = at[step]
                if new == "missing":
                    del at[key]
                else:
                    at[key] = new
                yield copy

    table = json.loads(read("layers.json"))
    search, plot = [c for k, c in SLOTS if k == "layers"]
    spoilt = list(spoil(table, [sorted(table)])) + list(spoil(table, ["layers", 3, sorted(table["layers"][3])]))
    for i, document in enumerate(spoilt):
        b.slot(b.either, search, "spoilt.json", json.dumps(document), named=False)
        if i % 3 == 0:
            b.slot(b.either, plot, "spoilt.json", json.dumps(document), named=False)
    record = json.loads(read("record.json"))
    show, history = [c for k, c in SLOTS if k == "record"]
    spoilt = list(spoil(record, [sorted(record)]))
    for part in ["model", "data", "history"]:
        spoilt += list(spoil(record, [part, sorted(record[part])]))
    spoilt += list(spoil(record, ["attacks", 1, sorted(record["attacks"][1])]))
    for i, document in enumerate(spoilt):
        b.slot(b.either, show, "spoilt.json", json.dumps(document))
        if i % 3 == 0:
            b.slot(b.either, history, "spoilt.json", json.dumps(document))


# ---- claims: the evaluator --------------------------------------------------------------------------------


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def evaluators(b):
    """An evaluator that answers nonsense, too late, twice, never, or dies."""
    g = b.greeting
    layers = g["layers"]

    def greet(**change):
        return "echo '%s'; sleep 9" % json.dumps(dict(g, **change))

    def answer(**change):
        """The evaluator's reply to every request, spoilt."""
        r = {"id": 0, "n": 100, "clean": 80, "robust": 50}
        r.update(change)
        text = json.dumps({k: v for k, v in r.items() if v is not None}).replace('"id": 0', '"id": $i')
        return "cat greeting; i=0; while read -r l; do i=$((i+1)); echo '%s'; done" % text.replace("$i", "'$i'")

    reply = "'{\"id\":'$i',\"n\":100,\"clean\":80,\"robust\":50}'"
    loop = "cat greeting; i=0; while read -r l; do i=$((i+1)); %s; done"
    late = "silent"
    cases = [
        # before or in its greeting
        ("true", "ended with status 0"),
        ("exit 3", "ended with status 3"),
        ("no-such-command-here 2>/dev/null", "ended with status 127"),
        ("kill -9 $$", "killed by signal 9"),
        ("sleep 9", late),
        ("printf '{\"proto\":1'; sleep 9", late),
        ("printf '{\"proto\":1'", "ended"),
        ("exec >&-; sleep 9", "closed its output"),
        ("echo; sleep 9", "nonsense"),
        ("echo hello; sleep 9", "nonsense"),
        ("echo []; sleep 9", "nonsense"),
        ("head -c 1000 net.nn; echo; sleep 9", "nonsense"),
        ("printf 'a\\000b\\n'; sleep 9", "nonsense"),
        ("yes", "nonsense"),
        ("tr '\\000' x </dev/zero", "a line of more than"),
        (greet(proto=2), "nonsense"),
        (greet(proto="1"), "nonsense"),
        (greet(reg="channel"), "prunes by channel"),
        (greet(reg=None), "nonsense"),
        (greet(digest=7), "nonsense"),
        (greet(batches=0), "no images"),
        (greet(images=-1), "no images"),
        (greet(layers=layers[:-1]), "9 layers"),
        (greet(layers=layers + layers[:1]), "11 layers"),
        (greet(layers=[dict(layers[0], n=143)] + layers[1:]), "with 143"),
        (greet(layers=[dict(layers[0], name="x")] + layers[1:]), "'x'"),
        (greet(layers=[3] + layers[1:]), "without a name"),
        (greet(layers=None), "0 layers"),
        # instead of a reply
        ("cat greeting; sleep 9", late),
        ("cat greeting; exec <&-; sleep 9", ""),
        ("cat greeting; read -r l; exit 4", "after it had been started again"),
        ("cat greeting; read -r l; kill -11 $$", "after it had been started again"),
        ("cat greeting", "after it had been started again"),
        (loop % "printf '{\"id\":'; sleep 9", late),
        (loop % "sleep 2; echo x", late),
        (loop % "echo nonsense", "nonsense"),
        (loop % "echo", "nonsense"),
        (loop % "printf '\\000\\377\\n'", "nonsense"),
        (loop % ("echo %s; echo %s" % (reply, reply)), ""),
        (loop % ("echo %s; sleep 0.05; echo %s" % (reply, reply)), ""),
        (loop % "tr '\\000' x </dev/zero", "a line of more than"),
        (answer(id=None), "another id"),
        (answer(id="0"), "another id"),
        (answer(id=7), "another id"),
        (answer(n=None), "counts"),
        (answer(n=0, clean=0, robust=0), "counts"),
        (answer(n=101), "counts"),
        (answer(n=1e2), "counts"),
        (answer(clean=101), "counts"),
        (answer(clean=-1), "counts"),
        (answer(robust=101), "counts"),
        (answer(robust="50"), "counts"),
        (answer(robust=None), "counts"),
        (answer(robust=0.5), "counts"),
        (answer(clean=1 << 62), "counts"),
        (answer(error="the network\nburns\u0007"), "burns"),
        (loop % "echo '{\"id\":'$i',\"n\":'$((100-i))',\"clean\":1,\"robust\":1}'", "another number of images"),
        ("cat evaluator >twice; sh evaluator; echo more", "more than it was asked"),
        ("sh evaluator; exit 5", "5"),
    ]
    command = "ddpg-search -q -l layers.json -t 0.3 --warmup 2 -n 1 --hidden 8 --csv-dir outdir -o out.json --evaluator-timeout %g -e %s"
    for code, words in cases:
        # sanitized processes start slowly, and only silence may wait for the clock
        limit = 0.4 if words == late or not words else 15
        write("pids", "")
        b.refused(command % (limit, shlex.quote("echo $$ >>pids; " + code)), words=words)
        if any(alive(int(pid)) for pid in read("pids").split()):
            b.fault(code, "still runs", 0, "")
    # the good one is accepted: what is refused above is refused for its fault
    b.either(command % (15, "'sh evaluator'"), name="none")
    status, _, err = b.run(command % (15, "'sh evaluator'"))
    if status:
        b.fault("the good evaluator", "is refused", status, err)
    b.make_older()


def requests(b):
    """adveval --serve answers every line, whatever is on it, and goes on."""
    good = b'{"id":5,"kept":[144,2304,2304,512,4608,9216,2048,18432,36864,640]}\n'
    lines = [b"x", b"[]", b"3", b"null", b"{}", b'"', b"\xff\xfe", b'{"id":"\xff"}', b"a\0b", b"\0", b"[" * 5000]
    lines += [b"y" * 3000000, '{"%s' .encode() % ("\u00e9" * 200).encode(), b'{"id":1,"id":2}', b'{"id":1e3,"kept":[]}']
    lines += [good[:-2].replace(b"144", n) for n in [b"0", b"-1", b"145", b"1.5", b'"1"', b"null", b"9" * 30]]
    lines += [good.strip()[:-1] + b',"batches":' + r + b"}" for r in [b"[0,0]", b"[1,0]", b"[-1,1]", b"[0,9]", b"[0]", b"7", b"[0,1e9]"]]
    status, out, err = b.run(SERVE + "-d data.tfrecord net.nn", stdin=b"\n".join(lines) + b"\n" + good + b'{"id":6')
    b.runs += len(lines)
    replies = [json.loads(l) for l in out.splitlines()][1:]
    if status or err or len(replies) != len(lines) + 2:
        b.fault("requests", "%d replies, %d are due" % (len(replies), len(lines) + 2), status, err)
    else:
        errors = ["error" in r for r in replies]
        if errors != [True] * len(lines) + [False, True] or replies[-2]["id"] != 5:
            b.fault("requests", "answered %s" % errors, status, err)


# ---- claims: outputs --------------------------------------------------------------------------------------

# commands that succeed, with the name of their output in place of {}
WRITERS = [
    ("nninfo -o {} net.nn", "x.txt"),
    ("maskapply -q -s uniform:0.5 -o {} net.nn", "x.nn"),
    ("maskapply -q -s uniform:0.5 -o out.nn --strategy-out out.json --report {} net.nn", "x.tsv"),
    ("maskapply -q -s uniform:0.5 -o out.nn --report out.tsv --strategy-out {} net.nn", "x.json"),
    ("nn2torch -o {} net.nn", "x.pth"),
    ("nn2torch -f safetensors -o {} net.nn", "x.pth"),
    ("torch2nn -q -o {} net.pth", "x.nn"),
    ("adveval -q --threads 1 --attacks clean -d data.tfrecord -o {} net.nn", "x.json"),
    ("advtrain -q --threads 1 --loss natural --epochs 1 --batch 20 -d data.tfrecord -o {} net.nn", "x.nn"),
    ("ddpg-search -q -l layers.json -e 'sh evaluator' -t 0.3 --warmup 1 -n 0 --hidden 8 --csv-dir outdir -o {}", "x.json"),
    ("summarize --csv out.csv --latex out.tex -o {} record.json", "x.txt"),
    ("summarize -o out.txt --latex out.tex --csv {} record.json", "x.csv"),
    ("summarize --history -o {} record.json", "x.txt"),
]
# those that write a directory or several names
GROUPS = [
    ("stgplot -q -o {}/fig strategy.json", ["fig.csv", "fig.tex", "fig.svg"]),
    (
        "tfrec-convert -q --set idx --holdout 0.3 -o {} src",
        ["train.tfrecord", "test.tfrecord", "holdout.tfrecord", "rest.tfrecord", "manifest.json"],
    ),
    (
        "ddpg-search -q -l layers.json -e 'sh evaluator' -t 0.3 --warmup 1 -n 0 --hidden 8 --csv-dir {} -o out.json",
        ["Episode_wise_Rewards.csv", "Best_Rewards.csv", "rewards.svg"],
    ),
]
STDOUT = [
    "nninfo net.nn",
    "nninfo --help",
    "nninfo --version",
    "maskapply -q -s uniform:0.5 net.nn",
    "nn2torch -l hydra net.nn",
    "nn2torch -f safetensors net.nn",
    "torch2nn -q net.pth",
    "adveval -q --threads 1 --attacks clean -d data.tfrecord net.nn",
    SERVE + "-d data.tfrecord net.nn",
    "advtrain -q --threads 1 --loss natural --epochs 1 --batch 20 -d data.tfrecord -o - net.nn",
    "ddpg-search -q -l layers.json -e 'sh evaluator' -t 0.3 --warmup 1 -n 0 --hidden 8",
    "summarize record.json",
    "summarize --history record.json",
    "summarize --csv out.csv --latex out.tex record.json",
    "maskapply -q -s uniform:0.5 --report out.tsv --strategy-out out.json net.nn",
]


def outputs(b):
    """Names that cannot be written, full and closed standard outputs."""
    os.mkdir("directory")
    os.symlink("loop", "loop")
    for command, base in WRITERS:
        b.refused(command.format("/dev/full"), "/dev/full")
        for name in ["nowhere/" + base, "net.nn/" + base, "directory", "loop/" + base, "x" * 300]:
            b.refused(command.format(name), name)
        b.refused(command.format("''"))
    for command, names in GROUPS:
        b.refused(command.format("net.nn/x"), "net.nn")
        for name in names:  # a directory where one of the files should go
            os.makedirs("taken/" + name)
            b.refused(command.format("taken"), "taken/" + name)
            if os.listdir("taken") != [name]:
                b.fault(command, "left %s" % os.listdir("taken"), 1, "")
            shutil.rmtree("taken")
    for command in STDOUT:
        with open("/dev/full", "wb") as full:
            b.refused(command, "<stdout>", stdout=full)
        b.refused(command + " >&-", "<stdout>")
        reader, writer = os.pipe()
        os.close(reader)
        b.refused(command, "<stdout>", stdout=writer)
        os.close(writer)


def limited(b):
    """A file size limit is a full disk: an error of writing and no signal."""
    for command, base in WRITERS:
        if "summarize" not in command and "nninfo" not in command:  # theirs are smaller than a block
            b.refused(command.format("out." + base.split(".")[1]), "out", size=256)
    for command, names in GROUPS[:2]:
        b.refused(command.format("outdir" if "outdir" in command or "tfrec" in command else "."), size=256)
        for name in os.listdir("."):
            if name.startswith("fig"):
                b.fault(command, name + " was left behind", 1, "")


def closed(b):
    """A closed standard error takes nobody's messages into a file."""
    line = "advtrain --threads 1 --loss natural --epochs 1 --batch 20 -d data.tfrecord --log log -o new.nn net.nn"
    for how in ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"]:
        status, _, err = b.run(line + " " + how)
        if status or err or any(not l.startswith(b"{") for l in read("log").splitlines()):
            b.fault(line + " " + how, "the log holds %r" % read("log")[:200], status, err)
        status, _, err = b.run("nninfo new.nn")
        if status:
            b.fault(line + " " + how, "its network is damaged", status, err)
    for tool in ["torch2nn -o out.nn -", "nn2torch -o out.pth -", "maskapply -s uniform:0.5 -o out.nn -", "adveval -d data.tfrecord -o out.json -", "nninfo -o out.txt -"]:
        b.refused(tool + " <&-", "Bad file descriptor")


def misuse(b):
    """Names that serve two ends, are not UTF-8, span lines or fill pages."""
    b.refused(SERVE + "-d data.tfrecord -", status=2)
    b.refused(SERVE + "-d - net.nn", status=2)
    b.refused("adveval -d - -", status=2)
    b.refused("maskapply -q -s uniform:0.5 -o out.nn --report out.nn net.nn", "out.nn", words="two outputs")
    b.refused("summarize --csv out.csv -o out.csv record.json", "out.csv", words="two outputs")
    for tool in ["maskapply --label", "ddpg-search --id", "adveval --label", "adveval --data-name", "tfrec-convert --name"]:
        tool, option = tool.split()
        rest = {"maskapply": "-s uniform:0.5 -o out.nn net.nn", "ddpg-search": "-l layers.json -e true -o out.json"}
        rest.update({"adveval": "-d data.tfrecord -o out.json net.nn", "tfrec-convert": "--set idx -o outdir src"})
        b.refused("%s %s \"$(printf '\\377')\" %s" % (tool, option, rest[tool]), "UTF-8", status=2)
    b.refused("nninfo a \"$(printf 'b\\nc')\"", status=2)
    b.refused("nninfo %s" % ("d/" * 1500 + "x"), words="No such file or directory")


def vanished(b):
    """The directory of the output disappears while the work is done."""
    for how in ["rm -r place", "mv place elsewhere"]:
        os.mkdir("place")
        write("place/x.json", "older")
        evaluator = shlex.quote("%s 2>/dev/null; sh evaluator" % how)
        line = "ddpg-search -q -l layers.json -e %s -t 0.3 --warmup 1 -n 0 --hidden 8 --csv-dir outdir -o place/x.json" % evaluator
        b.refused(line, "place/x.json")
        for path in ["place", "elsewhere"]:
            shutil.rmtree(path, ignore_errors=True)


def mounted(b):
    """A full and a read-only file system. Needs a mount name space of its own: see the bats file."""
    os.mkdir("full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", "full"], check=True)
    for directory in ["full", "ro"]:
        if directory == "ro":
            subprocess.run(["mount", "-o", "remount,ro", "full"], check=True)
        for command, base in WRITERS:
            if directory == "full":
                write("full/" + base, "older")
                write("full/filler", b"")
                try:
                    write("full/filler", bytes(1 << 20))
                except OSError:
                    pass
            b.refused(command.format("full/" + base), "full/" + base)
            if directory == "full" and (read("full/" + base) != b"older" or sorted(os.listdir("full")) != sorted(["filler", base])):
                b.fault(command, "full holds %s" % os.listdir("full"), 1, "")
            if directory == "full":
                os.remove("full/" + base)
        for command, names in GROUPS:
            if directory == "full":
                os.makedirs("full/sub", exist_ok=True)
                for name in names:
                    write("full/sub/" + name, "")
            b.refused(command.format("full/sub"), "full/sub")
            if any(read("full/sub/" + name) for name in names if os.path.exists("full/sub/" + name)):
                b.fault(command, "an older file was replaced", 1, "")
            left = [n for n in os.listdir("full/sub") if n.endswith(".partial")]
            if left:
                b.fault(command, "left %s" % left, 1, "")


if __name__ == "__main__":
    bench = Bench()
    globals()[sys.argv[1]](bench)
    bench.end()
