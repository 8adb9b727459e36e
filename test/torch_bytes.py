"""Checkpoints byte by byte, without PyTorch: sound ones of every age, and hostile ones. `torch_bytes.py CLAIM`.

Sound pickles come from Python's own pickler, which finds stand-ins for the few names of PyTorch that a checkpoint
uses; hostile ones are written opcode by opcode. CLAIM is a function at the end of this file; commands are checked as
in test/hostile.py, and the last line has the same form.
"""
import argparse
import collections
import copy
import hashlib
import io
import json
import pickle
import struct
import sys
import types
import warnings
import zipfile

from hostile import Bench, flipped, noise, read, spread, write

LITTLE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
MAGIC = 0x1950A86A20F9469CFC6C
ROOM = dict(memory=1 << 30)

# ---- PyTorch's names --------------------------------------------------------------------------------------


def module(name, **names):
    m = types.ModuleType(name)
    for key, value in names.items():
        value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(m, key, value)
    sys.modules[name] = m
    return m


def function():
    return lambda *a: None


STORAGES = {c: type(c, (), {}) for c in ["FloatStorage", "DoubleStorage", "LongStorage", "BoolStorage", "UntypedStorage", "ShortStorage"]}
torch = module("torch", float32=type("float32", (), {}), device=function(), Size=function(), **STORAGES)
rebuilders = ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"]
torch._utils = module("torch._utils", **{n: function() for n in rebuilders})
torch._tensor = module("torch._tensor", _rebuild_from_type_v2=function())


class Storage:
    def __init__(self, key, data, kind="FloatStorage", size=4, view=None):
        self.key, self.data, self.kind, self.numel, self.view = key, data, kind, len(data) // size, view


class Call:
    """Pickled as a call of function with args."""

    def __init__(self, f, *args):
        self.f, self.args = f, args

    def __reduce__(self):
        return self.f, self.args


def strides(shape):
    out = []
    for n in reversed(shape):
        out.insert(0, out[0] * last if out else 1)
        last = n
    return tuple(out)


def tensor(storage, shape, offset=0, stride=None, v=2):
    stride = strides(shape) if stride is None else stride
    if v == 1:
        return Call(torch._utils._rebuild_tensor, storage, offset, shape, stride)
    if v == 3:
        return Call(torch._utils._rebuild_tensor_v3, storage, offset, shape, stride, False, collections.OrderedDict(), torch.float32)
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, collections.OrderedDict())


class Pickler(pickle._Pickler):
    legacy = False

    def persistent_id(self, o):
        if not isinstance(o, Storage):
            return None
        id = ("storage", getattr(torch, o.kind), o.key, "cpu", o.numel)
        return id + (o.view,) if self.legacy else id


def pickled(value, protocol=2, legacy=False):
    out = io.BytesIO()
    p = Pickler(out, protocol)
    p.legacy = legacy
    p.dump(value)
    return out.getvalue()


# ---- containers -------------------------------------------------------------------------------------------


def zipped(records, deflate=()):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in records:
            z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED if name in deflate else zipfile.ZIP_STORED)
    return out.getvalue()


warnings.filterwarnings("ignore", "Duplicate name")


def zip_of(pickle_, storages, more=()):
    records = [("a/data.pkl", pickle_)] + [("a/data/" + s.key, s.data) for s in storages]
    return zipped(records + [("a/version", b"3\n")] + list(more))


def without_sums(data, only=""):
    """The zip file as torch.serialization.set_crc32_options(False) has it written: the check sums are zero."""
    out, z = bytearray(data), zipfile.ZipFile(io.BytesIO(data))
    central = z.start_dir
    for e in z.infolist():
        if e.filename.endswith(only):
            out[e.header_offset + 14 : e.header_offset + 18] = out[central + 16 : central + 20] = bytes(4)
        central += 46 + len(e.filename)
    return bytes(out)


def legacy_of(value, storages, protocol=2, machine=LITTLE, keys=None):
    parts = [pickled(v, protocol) for v in (MAGIC, 1001, machine)]
    parts += [pickled(value, protocol, legacy=True), pickled([s.key for s in storages] if keys is None else keys, protocol)]
    return b"".join(parts) + b"".join(struct.pack("<q", s.numel) + s.data for s in storages)


def safe_of(entries, data, length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


# ---- opcodes ----------------------------------------------------------------------------------------------


def s(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def i(n):
    return b"\x8a\x0c" + n.to_bytes(12, "little", signed=True) if not -(1 << 63) <= n < 1 << 63 else b"\x8a\x08" + struct.pack("<q", n)


def g(module_, name):
    return b"c%s\n%s\n" % (module_.encode(), name.encode())


def t(*items):
    return b"(" + b"".join(items) + b"t"


def d(**items):
    return b"}(" + b"".join(s(k) + v for k, v in items.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def raw_tensor(shape, stride=(1,), offset=0, numel=4, kind="FloatStorage", key="0", module_="torch", metadata=b""):
    storage = t(s("storage"), g(module_, kind), s(key), s("cpu"), i(numel)) + b"Q"
    args = t(storage, i(offset), t(*map(i, shape)), t(*map(i, stride)), b"\x89", b"}", metadata)
    return g("torch._utils", "_rebuild_tensor_v2") + args + b"R"


# ---- a sound network --------------------------------------------------------------------------------------


class Net:
    """net.nn of the bench, taken apart: its tensors in file order with their bytes."""

    def __init__(self, b):
        b.tool("nn2torch -o net.safetensors net.nn")
        whole = read("net.safetensors")
        (n,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + n])
        del header["__metadata__"]
        self.tensors = {
            k: (tuple(e["shape"]), whole[8 + n + e["data_offsets"][0] : 8 + n + e["data_offsets"][1]]) for k, e in header.items()
        }
        b.tool("nninfo --tensors -f json -o net.json net.nn")
        self.sums = {e["name"]: e["sha256"] for e in json.loads(read("net.json"))["tensors"]}

    def state(self, make=lambda key, n, shape, data: (lambda st: (tensor(st, shape), [st]))(Storage(str(n), data))):
        values, storages = collections.OrderedDict(), []
        for n, (key, (shape, data)) in enumerate(self.tensors.items()):
            values[key], more = make(key, n, shape, data)
            storages += more
        return values, storages


def accepted(b, net, name, data, options="", extra=()):
    """data is read, and every tensor is the network's."""
    write("x.pth", data)
    line = "torch2nn -q %s -o x.nn x.pth" % options
    status, _, err = b.run(line, **ROOM)
    if status or err:
        b.fault("%s (%s)" % (line, name), "should be accepted", status, err)
        return
    b.tool("nninfo --tensors -f json -o x.json x.nn")
    sums = {e["name"]: e["sha256"] for e in json.loads(read("x.json"))["tensors"]}
    for key in extra:
        sums.pop(key, None)
    if sums != net.sums:
        b.fault("%s (%s)" % (line, name), "gives other tensors", status, err)


# ---- claims -----------------------------------------------------------------------------------------------


def ages(b):
    """Checkpoints of every age and style give the same tensors."""
    net = Net(b)
    state, storages = net.state()
    for protocol in range(1, 6):
        accepted(b, net, "zip %d" % protocol, zip_of(pickled(state, protocol), storages))
        accepted(b, net, "legacy %d" % protocol, legacy_of(state, storages, protocol))

    first = next(iter(net.tensors))
    flat = Storage("all", b"".join(data for _, data in net.tensors.values()))
    at = 0

    def in_one(key, n, shape, data):
        nonlocal at
        at += len(data) // 4
        return tensor(flat, shape, at - len(data) // 4), []

    one = net.state(in_one)[0]
    accepted(b, net, "one storage", zip_of(pickled(one), [flat]))
    accepted(b, net, "one storage, legacy", legacy_of(one, [flat]))
    at = 0

    def view(key, n, shape, data):  # as PyTorch 0.3 saved views on storages
        nonlocal at
        at += len(data) // 4
        st = Storage("all", flat.data, view=("view%d" % n, at - len(data) // 4, len(data) // 4))
        return tensor(st, shape, v=1), []

    accepted(b, net, "views on storages", legacy_of(net.state(view)[0], [flat]))

    def untyped(key, n, shape, data):
        st = Storage(str(n), data, "UntypedStorage", 1)
        return tensor(st, shape, v=3), [st]

    v3, bytes_ = net.state(untyped)
    accepted(b, net, "untyped", zip_of(pickled(v3), bytes_))

    def turned(key, n, shape, data):  # columns before rows
        if len(shape) != 2:
            return tensor(Storage(str(n), data), shape), [Storage(str(n), data)]
        rows, columns = shape
        cells = [data[4 * k : 4 * k + 4] for k in range(rows * columns)]
        st = Storage(str(n), b"".join(cells[r * columns + c] for c in range(columns) for r in range(rows)))
        return tensor(st, shape, stride=(1, rows)), [st]

    tv, ts = net.state(turned)
    accepted(b, net, "transposed", zip_of(pickled(tv), ts))

    def wide(key, n, shape, data):
        floats = struct.unpack("<%df" % (len(data) // 4), data)
        st = Storage(str(n), struct.pack("<%dd" % len(floats), *floats), "DoubleStorage", 8)
        return tensor(st, shape), [st]

    dv, ds = net.state(wide)
    accepted(b, net, "double", legacy_of(dv, ds))
    shape, data = net.tensors[first]
    numbers = [n % 2 for n in range(len(data) // 4)]
    like = copy.copy(net)
    like.sums = {**net.sums, first: hashlib.sha256(struct.pack("<%df" % len(numbers), *numbers)).hexdigest()}
    for kind, size, code in [("BoolStorage", 1, "?"), ("LongStorage", 8, "q")]:
        whole = Storage("whole", struct.pack("<%d%s" % (len(numbers), code), *numbers), kind, size)
        value, beside = {**state, first: tensor(whole, shape)}, storages[1:] + [whole]
        accepted(b, like, kind, zip_of(pickled(value), beside))
        accepted(b, like, kind + ", legacy", legacy_of(value, beside))
    accepted(b, net, "without check sums", without_sums(zip_of(pickled(state), storages)))
    parameters = {k: Call(torch._utils._rebuild_parameter, v, True, collections.OrderedDict()) for k, v in state.items()}
    accepted(b, net, "parameters", zip_of(pickled(parameters), storages))
    typed = {
        k: Call(torch._tensor._rebuild_from_type_v2, v.f, torch.float32, (v.args[0], v.args[1], v.args[2], v.args[3], False, None), {})
        for k, v in state.items()
    }
    accepted(b, net, "subclass", zip_of(pickled(typed), storages))
    old = collections.OrderedDict
    pairs = program(g("collections", "OrderedDict") + b"(]" + b"".join(b"](" + s(k) + raw(v) + b"ea" for k, v in state.items()) + b"tR")
    accepted(b, net, "list of pairs", zip_of(pairs, storages))
    device = Call(torch.device, "cuda", 0)
    things = {"args": argparse.Namespace(lr=0.1), "device": device, "size": Call(torch.Size, (3, 4)), "odd": [1 << 70, -1.5, None, b"x", {1, 2}, 3 + 4j],
              "method": Call(getattr, argparse.Namespace(), "_get_kwargs"), "kind": Call(type, None), "count": Call(len, ())}
    for protocol in (2, 4):
        for key in ("state_dict", "net", "model"):
            accepted(b, net, key, zip_of(pickled(dict(things, epoch=3, **{key: state}), protocol), storages))
    accepted(b, net, "another key", zip_of(pickled({"mine": state}), storages), "--key mine")
    best = Storage("best", bytes(4))
    accepted(b, net, "a tensor beside", zip_of(pickled({"best_prec1": tensor(best, ()), "state_dict": state}), storages + [best]))
    strange = program(d(state_dict=b"}(" + b"".join(s(k) + raw(v) for k, v in state.items()) + b"u", other=raw_tensor((4,), kind="QUInt4x2Storage", key="no")))
    accepted(b, net, "a tensor of an unknown type beside", zip_of(strange, storages))
    for where in ["checkpoint.ema", "a.b.c.d"]:
        value = state
        for key in reversed(where.split(".")):
            value = {key: value, "epoch": 3}
        accepted(b, net, "in " + where, zip_of(pickled(value), storages), "--key " + where)
        accepted(b, net, "in " + where + " by its name", zip_of(pickled({where: state, where.split(".")[0]: 1}), storages), "--key " + where)
    accepted(b, net, "both", zip_of(pickled({"state_dict": 7, "net": state}), storages))
    for prefix in ["module.", "_orig_mod.", "module.basic_model.", "basic_model.module.", "1.", "module.1.", "model.module.", "_module.", "_fsdp_wrapped_module.", "backbone."]:
        accepted(b, net, prefix, zip_of(pickled(old((prefix + k, v) for k, v in state.items())), storages))
    unused = Storage("unused", noise(400))
    momentum = {"state_dict": state, "optimizer": {"state": {0: {"momentum_buffer": tensor(unused, (100,))}}}}
    accepted(b, net, "an optimiser", zip_of(pickled(momentum), storages + [unused]))
    accepted(b, net, "an optimiser, legacy", legacy_of(momentum, [unused] + storages))
    counter = Storage("n", struct.pack("<q", 5), "LongStorage", 8)
    counted = old(state, **{"bn1.num_batches_tracked": tensor(counter, ()), "conv1.k_score": tensor(Storage("k", bytes(4)), ())})
    extra = ["bn1.num_batches_tracked", "conv1.k_score"]
    more = storages + [counter, Storage("k", bytes(4))]
    accepted(b, net, "extras", zip_of(pickled(counted), more), extra=extra)
    accepted(b, net, "extras dropped", zip_of(pickled(counted), more), "--bare")
    shape, data = net.tensors[first]
    scored = old(state, **{"conv1.popup_scores": tensor(Storage("s", bytes(4 * shape[1])), (1, shape[1], 1, 1))})
    accepted(b, net, "channel scores", zip_of(pickled(scored), storages + [Storage("s", bytes(4 * shape[1]))]), extra=["conv1.popup_scores"])
    averaged = old([("n_averaged", tensor(counter, ()))] + [("module." + k, v) for k, v in state.items()])
    accepted(b, net, "averaged weights", zip_of(pickled(averaged), storages + [counter]), "--bare")
    # the legacy form asks for a pickled module's class by a persistent id
    loss = t(s("module"), g("torch.nn", "CrossEntropyLoss"), s("loss.py"), s("class CrossEntropyLoss: ...")) + b"Q)\x81" + d(training=b"\x88") + b"b"
    body = d(state_dict=b"}(" + b"".join(s(k) + raw(v) for k, v in state.items()) + b"u", criterion=loss)
    data = [struct.pack("<q", st.numel) + st.data for st in storages]
    head = pickled(MAGIC) + pickled(1001) + pickled(LITTLE) + program(body)
    accepted(b, net, "a loss beside, legacy", head + pickled([st.key for st in storages]) + b"".join(data))
    plain = d(neg=b"\x89", conj=b"\x89")
    rows = b"".join(s(k) + raw_tensor(v.args[2], v.args[3], v.args[1], v.args[0].numel, key=v.args[0].key, metadata=plain) for k, v in state.items())
    accepted(b, net, "metadata that says nothing", zip_of(program(b"}(" + rows + b"u"), storages))
    # archives around it, and standard input
    write("x.pth", zip_of(pickled(state), storages))
    write("around.zip", zipped([("readme", b"hello"), ("nets/x.pth.tar", read("x.pth"))], deflate=["nets/x.pth.tar"]))
    b.tool("tar czf around.tgz x.pth")
    for line in ["around.zip:nets/x.pth.tar", "around.zip:x.pth.tar", "./around.zip:nets/x.pth.tar", "around.tgz:x.pth", "- <x.pth"]:
        status, _, err = b.run("torch2nn -q -o y.nn " + line)
        if status or err or read("y.nn")[:400] != read("x.nn")[:400]:
            b.fault(line, "should be accepted", status, err)
    # the length of a safetensors header, with which it begins, may look like a pickle's or a zip's first bytes
    whole = read("net.safetensors")
    (n,) = struct.unpack("<Q", whole[:8])
    for length in [(n | 255) + 0x81, 0x314C + 0x10000 * ((n >> 16) + 1)]:
        accepted(b, net, "a header of %#x bytes" % length, safe_of(whole[8 : 8 + n].ljust(length), whole[8 + n :]))
    write("two.zip", zipped([("a/x.pth", b""), ("b/x.pth", b""), ("b/y.pth", b"")]))
    b.refused("torch2nn -q -o out.nn two.zip:x.pth", "two.zip", words="holds more than one 'x.pth', but a/x.pth, b/x.pth, b/y.pth")
    b.refused("torch2nn -q -o out.nn two.zip:y.pth", "two.zip:y.pth", words="it is empty")
    b.refused("torch2nn -q -o out.nn around.zip:nets", "around.zip", words="holds no 'nets', but readme, nets/x.pth.tar")
    b.refused("torch2nn -q -o out.nn around.zip:readme", "around.zip:readme", words="no PyTorch checkpoint")
    b.refused("torch2nn -q -o out.nn around.zip", "around.zip", words="name a member as ARCHIVE:MEMBER")


def raw(call):
    """The opcodes of a Call on a storage."""
    st, offset, shape, stride = call.args[:4]
    return raw_tensor(shape, stride, offset, st.numel, st.kind, st.key)


def refuse(b, data, words, name="hostile.pth", options=""):
    write(name, data)
    b.refused("torch2nn -q %s -o out.nn %s" % (options, name), name, words=words, **ROOM)


def zip_program(body, *more):
    return zipped([("a/data.pkl", program(body)), ("a/data/0", bytes(16)), ("a/version", b"3\n")] + list(more))


def pickles(b):
    """Programs that want to run something, that nest, that bloat, that lie."""
    run = b"(" + s("echo hacked >out.txt") + b"tR"
    for module_, name in [
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec"),
        ("__builtin__", "apply"), ("cProfile", "run"), ("runpy", "_run_code"), ("sys", "exit"), ("pty", "spawn"),
        ("importlib", "import_module"), ("socket", "socket"), ("os.path", "join"), ("operator", "attrgetter"), ("pickle", "loads"),
    ]:
        refuse(b, zip_program(g(module_, name) + run), "names %s.%s, which only an attack does; nothing was run" % (module_, name))
    for body in [
        s("os") + s("system") + b"\x93" + run,  # STACK_GLOBAL
        b"(" + s("echo hacked >out.txt") + b"ios\nsystem\n",  # INST
        b"(" + g("os", "system") + s("echo hacked >out.txt") + b"o",  # OBJ
        g("os", "system") + t(s("x")) + b"\x81",  # NEWOBJ
        g("os", "system") + t(s("x")) + b"}\x92",  # NEWOBJ_EX
        d(state_dict=b"}", optimizer=g("os", "system") + run),
        b"}" + g("os", "system") + run + b"b",  # BUILD
        g("torch._tensor", "_rebuild_from_type_v2") + t(g("os", "system"), b"N", t(s("x")), b"N") + b"R",
        g("torch._utils", "_rebuild_tensor_v2") + t(g("os", "system") + run) + b"R",
    ]:
        refuse(b, zip_program(body), "names os.system, which only an attack does")
        whole = pickled(MAGIC) + pickled(1001) + pickled(LITTLE) + program(body) + pickled([])
        refuse(b, whole, "names os.system, which only an attack does")
    refuse(b, program(g("os", "system") + run), "names os.system, which only an attack does")
    long = b"B" + struct.pack("<I", 20 << 20) + bytes(20 << 20)
    refuse(b, zip_program(long), "a/data.pkl has 20971528 bytes, up to 16777216 are possible")
    refuse(b, pickled(MAGIC) + pickled(1001) + pickled(LITTLE) + program(long) + pickled([]), "one of its pickles has more than 16777216 bytes")
    # a class that we do not know is remembered by its name and never called
    refuse(b, zip_program(g("models", "ResNet") + b")R" + d(a=b"N") + b"b"), "is a pickled models.ResNet, whose class would have to be run")
    refuse(b, zip_program(d(model=g("models", "ResNet") + b")\x81")), "'model' is a pickled models.ResNet")
    network = t(s("module"), g("models", "ResNet"), s("models.py"), s("class ResNet: ...")) + b"Q"
    legacy = pickled(MAGIC) + pickled(1001) + pickled(LITTLE)
    refuse(b, legacy + program(network + b")\x81" + d(a=b"N") + b"b") + pickled([]), "is a pickled models.ResNet, whose class")

    for deep in [b"(" * 200000, b"]" * 200000, b"]" * 5000 + b"a" * 4999, b")" + b"\x85" * 200000, b"}" + (s("a") + b"}") * 5000 + b"s" * 5000]:
        refuse(b, zip_program(deep), "nests deeper" if deep[:2] != b"]]" or b"a" in deep else "a dict of tensors is needed")
    doubling = b"]" + b"".join(b"r" + struct.pack("<I", k) + b"](" + (b"j" + struct.pack("<I", k)) * 10 + b"e" for k in range(40))
    refuse(b, zip_program(doubling), "holds a list")  # 10^40 leaves, if one were to visit them
    refuse(b, zip_program(b"Nr\xff\xff\xff\xff"), "memo number 4294967295")
    refuse(b, zip_program(b"Np999999999999\n"), "memo number 999999999999")
    refuse(b, zip_program(b"Np-1\n"), "memo number that is none")
    refuse(b, zip_program(b"h\x05"), "memo number 5, which was never put")
    pairs = b"](" + (b"](" + s("k") + b"Ne") * 3000 + b"eq\x01"
    refuse(b, zip_program(pairs + (g("collections", "OrderedDict") + b"(h\x01tR0") * 3000), "makes more of its bytes than a checkpoint does")
    for body, words in [
        (b"", "empty stack"), (b"0", "empty stack"), (b"t", "did not begin"), (b"1", "did not begin"), (b"(u", "adds to nothing"),
        (b"N(Nu", "adds to None"), (b"}(Nu", "adds to a dict"), (b"}(" + s("a") + b"d", "key but no value"), (b"](NNu", "adds to a list"), (b"((R", "empty stack"),
        (b"N)R", "calls None"), (g("a", "b") + b"NR", "with None"), (b"\xff", "byte 0xff for an opcode"), (b"\x82\x01", "byte 0x82"),
        (b"\x97", "byte 0x97"), (b"\x80\x09", "protocol 9"), (b"X\xff\xff\xff\xff", "cut short"), (b"\x8d" + b"\xff" * 8, "cut short"),
        (b"\x8b\xff\xff\xff\x7f", "cut short"), (b"B\0\0\0\x80", "cut short"), (b"c", "cut short"), (b"cos\n", "cut short"),
        (b"c\n\n", "a name that is none"), (b"cx y\nz\n", "a name that is none"), (b"NN\x93", "names a class by"), (b"Fx\n", "a float that is none"),
        (b"Sabc\n", "without quotes"), (b"NQ", "refers to something outside"), (b"Pabc\n", "refers to something outside"),
        (t(s("storage"), g("os2", "X"), s("0"), s("cpu"), i(1)) + b"Q", "unknown type os2.X"),
        (t(s("module"), g("os", "system"), s("0"), s("cpu")) + b"Q", "names os.system"),
        (t(s("module"), s("os.system"), s("0"), s("cpu")) + b"Q", "no storage"),
        (t(s("model"), g("torch", "X"), s("0"), s("cpu"), i(1)) + b"Q", "no storage"),
        (t(s("storage"), g("torch", "FloatStorage"), s("0"), s("cpu"), i(-1)) + b"Q", "-1 elements"),
        (t(s("storage"), g("torch", "FloatStorage"), s("0"), s("cpu"), i(1 << 62)) + b"Q", "elements"),
        (t(s("storage"), g("torch", "FloatStorage"), s("0"), s("cpu"), i(1 << 80)) + b"Q", "no storage"),
        (t(s("storage"), g("torch", "FloatStorage"), s("a\0b"), s("cpu"), i(1)) + b"Q", "is no name"),
        (t(s("storage"), g("torch", "FloatStorage"), s("k" * 400), s("cpu"), i(1)) + b"Q", "is no name"),
        (raw_tensor((4,)) + b"0" + raw_tensor((4,), numel=5), "described in two ways"),
    ]:
        refuse(b, zip_program(body), words)


def tensors(b):
    """Views that leave their storage, shapes that ask for more than there is, names that clash."""
    net = Net(b)
    state, storages = net.state()
    first = next(iter(state))
    shape = net.tensors[first][0]

    def with_first(value, *more):
        body = b"}(" + b"".join(s(k) + (value if k == first else raw(v)) for k, v in state.items()) + b"u"
        return zip_of(program(body), storages, more)

    n = storages[0].numel
    own = strides(shape)
    outside = "'%s' reaches outside its storage '0' of %d elements" % (first, n)
    for value, words in [
        (raw_tensor(shape, own, 1, n), outside),
        (raw_tensor(shape, own, n, n), outside),
        (raw_tensor(shape, own, -1, n), "begins outside its storage"),
        (raw_tensor(shape, own, 1 << 63, n), "is not rebuilt from"),
        (raw_tensor(shape, own, (1 << 63) - 1, n), "begins outside"),
        (raw_tensor(shape, [-x for x in own], n - 1, n), outside),
        (raw_tensor(shape, [own[0] + 1] + list(own[1:]), 0, n), outside),
        (raw_tensor(shape, [1 << 62] + list(own[1:]), 0, n), outside),
        (raw_tensor(shape, own[:-1], 0, n), "sizes without strides"),
        (raw_tensor([1] * 9, [1] * 9, 0, n), "more dimensions than we know"),
        (raw_tensor([1 << 80], [1], 0, n), "sizes or strides that are no whole numbers"),
        (raw_tensor(shape[:-1], own[1:], 0, n), "of another shape (%s is" % first),
        (raw_tensor(list(shape[:-1]) + [0], own, 0, n), "of another shape"),
        (raw_tensor(list(shape[:-1]) + [-1], own, 0, n), "of another shape"),
        (raw_tensor((), (), 0, n), "of another shape (%s is a scalar" % first),
        (raw_tensor([1 << 40, 1 << 40, 3, 3], [0, 0, 0, 0], 0, n), "of another shape"),
        (b"N", "1 missing (%s)" % first),
        (raw_tensor(shape, own, 0, n, metadata=d(neg=b"\x88")), "'%s' is a negated view" % first),
        (g("torch._utils", "_rebuild_qtensor") + b")R", "'%s' is sparse, quantised or without data" % first),
        (g("torch._utils", "_rebuild_sparse_tensor") + b")R", "'%s' is sparse" % first),
        (raw_tensor(shape, own, 0, n, "ShortStorage"), "of type int16"),
        (raw_tensor(shape, own, 0, n, "NoStorage"), "'%s' lies in a storage of an unknown type" % first),
        (raw_tensor(shape, own, 0, n, key="none"), "record a/data/none is missing"),
    ]:
        refuse(b, with_first(value), words)
    # a storage of 16-bit integers: sound, but none of ours
    short = Storage("short", bytes(2 * n))
    refuse(b, with_first(raw_tensor(shape, own, 0, n, "ShortStorage", "short"), ("a/data/short", short.data)), "of type int16, which we cannot use")
    nan = Storage("nan", struct.pack("<f", float("nan")) * n)
    refuse(b, with_first(raw_tensor(shape, own, 0, n, key="nan"), ("a/data/nan", nan.data)), "'%s' is not finite at element 0" % first)
    # 10 GB and more in a file of a few hundred bytes
    for body in [
        d(a=raw_tensor((50000, 50000), (50000, 1), 0, 2500000000)),
        d(a=raw_tensor((1 << 40,), (0,), 0, 4)),
        d(**{"linear.weight": raw_tensor((1000000, 64), (0, 0), 0, 4)}),
        d(**{"conv1.weight": raw_tensor((16, 1 << 19, 3, 3), (0, 0, 0, 0), 0, 4)}),
    ]:
        refuse(b, zip_program(body), "no architecture we know")
        refuse(b, pickled(MAGIC) + pickled(1001) + pickled(LITTLE) + program(body) + pickled(["0"]) + struct.pack("<q", 4) + bytes(16), "")
        refuse(b, zip_program(body), "its tensors are not those of vgg11", options="--arch vgg11")
    keys = collections.OrderedDict(state)
    keys["module." + first] = state[first]
    refuse(b, zip_of(pickled(keys), storages), "the keys '%s' and 'module.%s' name the same tensor" % (first, first))
    for key, words in [("", "name is a string, not 1 to"), ("a\0b", "not 1 to"), ("k" * 300, "not 1 to"), (3, "a tensor's name is an int"), ("x\ny", "1 surplus (x?y)")]:
        named = collections.OrderedDict(state)
        named[key] = state[first]
        refuse(b, zip_of(pickled(named), storages), words)
    for name in ("mean", "std"):
        refuse(b, zip_of(pickled({name: state["bn1.bias"], **state}), storages), "1 surplus (%s)" % name)
    b.tool("nn2torch -o noted.pth net.nn")
    for options in ("--input 9x9", "--mean .5,.5,.5 --std 1,1,1", "--bare"):
        refuse(b, read("noted.pth"), "holds its own graph", options=options)
    several = collections.OrderedDict(state)
    del several["bn1.bias"], several["bn1.weight"]
    several["conv1.weight"] = tensor(storages[0], shape[::-1], stride=(1, 1, 1, 1))
    several["surplus.weight"] = state[first]
    refuse(b, zip_of(pickled(several), storages), "next is resS: 2 missing (bn1.weight, bn1.bias); 1 surplus (surplus.weight); 1 of another shape (conv1.weight is 3x3x1x16, not 16x3x3x3)")
    refuse(b, zip_of(pickled(several), storages), "are not those of vgg16_bn", options="--arch vgg16_bn")
    refuse(b, zip_of(pickled({"linear.popup_scores": state["linear.bias"], **state}), storages), "1 surplus (linear.popup_scores)")
    for value, words in [(7, "holds an int"), ([state], "holds a list"), ({}, "a dict without tensors"), ({"state_dict": {}}, "'state_dict' is a dict without"), (None, "holds None")]:
        refuse(b, zip_of(pickled(value), storages), words)
    refuse(b, zip_of(pickled({"net": state}), storages), "'other' is missing", options="--key other")


def containers(b):
    """Zip, legacy and safetensors files whose parts contradict each other."""
    net = Net(b)
    state, storages = net.state()
    good = pickled(state)
    records = [("a/data.pkl", good)] + [("a/data/" + st.key, st.data) for st in storages] + [("a/version", b"3\n")]
    whole = zipped(records)
    refuse(b, zipped(records + [("a/byteorder", b"big")]), "written on a big-endian machine")
    refuse(b, zipped(records + [("a/constants.pkl", b"")]), "TorchScript")
    refuse(b, zipped(records[1:]), "no checkpoint")
    refuse(b, zipped(records[:1] + records[2:]), "a/data/0 is missing")
    refuse(b, zipped(records[:1] + [("a/data/0", storages[0].data[:-4])] + records[2:]), "bytes, its pickle says")
    refuse(b, zipped(records[:1] + [("a/data/0", storages[0].data + bytes(4))] + records[2:]), "bytes, its pickle says")
    refuse(b, without_sums(zipped(records), "data/0"), "a/data/0 is cut short or damaged: its CRC-32 is another")
    refuse(b, zipped(records[:2] + records[1:]), "holds a/data/0 twice")
    refuse(b, zipped([("a/data.pkl", good[:-1])] + records[1:]), "is cut short")
    # the first storage's record lies within the pickle, as bytes that it drops
    inner = zipped(records[1:2])
    head, entry = inner[: inner.index(b"PK\1\2")], inner[inner.index(b"PK\1\2") : inner.index(b"PK\5\6")]
    outer = zipped([("a/data.pkl", good[:2] + b"B" + struct.pack("<I", len(head)) + head + b"0" + good[2:])] + records[2:])
    place, directory = outer.index(head), outer.index(b"PK\1\2")
    listed = outer[directory : outer.rindex(b"PK\5\6")] + entry[:42] + struct.pack("<I", place) + entry[46:]
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(records), len(records), len(listed), directory, 0)
    refuse(b, outer[:directory] + listed + end, "a/data.pkl is cut short or damaged: it overlaps another record")
    refuse(b, zipped([("a/data.pkl", b"")] + records[1:]), "is cut short")
    bomb = zipped([("a/data.pkl", good), ("a/data/0", bytes(64 << 20))], deflate=["a/data/0"])
    refuse(b, bomb, "do not fit into")
    refuse(b, zipped([("a/data.pkl", bytes(64 << 20))], deflate=["a/data.pkl"]), "do not fit into")
    around = zipped([("x.pth", bytes(64 << 20))], deflate=["x.pth"])
    write("around.zip", around)
    b.refused("torch2nn -q -o out.nn around.zip:x.pth", "around.zip:x.pth", words="no PyTorch checkpoint", **ROOM)

    # the directory says something else than the file holds
    central = whole.index(b"PK\1\2")
    entries, at = [], central
    while whole[at : at + 4] == b"PK\1\2":
        name, extra, comment = struct.unpack("<HHH", whole[at + 28 : at + 34])
        entries.append(at)
        at += 46 + name + extra + comment

    def patched(entry, offset, *values):
        place = entries[entry] + offset
        data = b"".join(struct.pack("<I", v) for v in values)
        return whole[:place] + data + whole[place + len(data) :]

    def patched_both(entry, offset, *values):  # the record's own head too, where all but its first field is the same
        data = b"".join(struct.pack("<I", v) for v in values)
        changed = patched(entry, offset, *values)
        (local,) = struct.unpack("<I", whole[entries[entry] + 42 : entries[entry] + 46])
        return changed[: local + offset - 2] + data + changed[local + offset - 2 + len(data) :]

    size = len(storages[0].data)
    for data, words in [
        (patched(1, 16, 0), "contradict each other"),
        (patched_both(1, 16, 0), "a/data/0 is cut short or damaged: its CRC-32 is another"),
        (patched(1, 20, 10 * size, 10 * size), "do not fit"),
        (patched_both(1, 20, 2 * size, 2 * size), "bytes, its pickle says"),
        (patched_both(1, 20, 0xFFFFFFF0, 0xFFFFFFF0), "do not fit"),
        (patched(1, 24, 0xFFFFFFF0), "do not fit"),
        (patched_both(1, 20, 0, 0), "bytes, its pickle says"),
        (patched(2, 42, struct.unpack("<I", whole[entries[1] + 42 : entries[1] + 46])[0]), "overlaps"),  # two at one place
        (patched(2, 42, struct.unpack("<I", whole[entries[2] + 42 : entries[2] + 46])[0] - 40), ""),
        (patched(1, 42, len(whole) + 5), ""),
        (patched(1, 42, 0xFFFFFFFE), ""),
        (whole[:central], ""),
        (whole[: len(whole) - 22], ""),
        (whole[: len(whole) // 2], ""),
    ]:
        refuse(b, data, words)
    encrypted = bytearray(whole)
    encrypted[entries[0] + 8] |= 1
    encrypted[6] |= 1
    refuse(b, bytes(encrypted), "")

    def claiming(size):  # a few bytes whose directory says, in 64 bits, that a record has so many
        head = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 0, 0, 4, 4, 8, 0) + b"a/data/0" + bytes(4)
        start = zipped([("a/data.pkl", good)])
        at = start.index(b"PK\1\2")
        first = start[at : start.index(b"PK\5\6")]
        extra = struct.pack("<HHQQ", 1, 16, size, size)
        entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 8, 20, 0, 0, 0, 0, at)
        both = first + entry + b"a/data/0" + extra
        return start[:at] + head + both + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, len(both), at + len(head), 0)

    refuse(b, claiming(4), "its pickle says")
    refuse(b, claiming(10 << 30), "do not fit")
    refuse(b, claiming((1 << 63) - 1), "do not fit")
    refuse(b, claiming(1 << 63), "an entry is cut short")
    wide = struct.pack("<4sIQI", b"PK\6\7", 0, (1 << 64) - 1, 1) + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    refuse(b, whole[:central] + wide, "ends early")
    for at in spread(central, 60) + spread(len(whole) - central, 60):
        write("flipped.pth", flipped(whole, at, 1 << at % 8))
        b.either("torch2nn -q -o out.nn flipped.pth", "flipped.pth", **ROOM)

    sound = legacy_of(state, storages)
    big = dict(LITTLE, little_endian=False)
    refuse(b, legacy_of(state, storages, machine=big), "written on a big-endian machine")
    refuse(b, legacy_of(state, storages, machine={}), "written on a big-endian machine")
    refuse(b, legacy_of(state, storages, keys=[st.key for st in storages][:-1]), "are missing")
    refuse(b, legacy_of(state, storages, keys=["0"] + [st.key for st in storages]), "")
    refuse(b, legacy_of(state, storages, keys=["x"]), "used by no tensor")
    refuse(b, legacy_of(state, storages, keys=7), "the list of its storages is an int")
    refuse(b, sound + b"x", "1 bytes follow its last storage")
    refuse(b, sound[:-1], "cut short")
    lying = sound.replace(struct.pack("<q", storages[0].numel) + storages[0].data[:16], struct.pack("<q", 1 << 60) + storages[0].data[:16])
    refuse(b, lying, "its pickle says")
    refuse(b, pickled(MAGIC) + pickled(1002), "protocol of PyTorch's that is not 1001")
    refuse(b, pickled({"a": 1}), "a pickle, but not one of PyTorch's")
    for n in [1, 2, 5, 20, 40, 100, 1000]:
        refuse(b, sound[:n], "")
    for at in spread(5000, 60):
        write("flipped.pth", flipped(sound, at, 1 << at % 8))
        b.either("torch2nn -q -o out.nn flipped.pth", "flipped.pth", **ROOM)

    def entry(begin, end, shape=(4,), dtype="F32"):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}

    for data, words in [
        (safe_of({}, b"", 1 << 62), "no PyTorch checkpoint"),
        (safe_of({}, b"", 1 << 29), "claims a header"),
        (safe_of({}, b"", 100), "claims a header"),
        (safe_of(b"{" + b"[" * 100000, b""), "no JSON object"),
        (safe_of(b'{"a":' * 100000, b""), "no JSON object"),
        (safe_of({"a": entry(0, 16)}, bytes(15)), "end at byte"),
        (safe_of({"a": entry(0, 16)}, bytes(17)), "end at byte"),
        (safe_of({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16)), "overlaps"),
        (safe_of({"a": entry(0, 16), "b": entry(12, 28)}, bytes(28)), "overlaps"),
        (safe_of({"a": entry(0, 16), "b": entry(20, 36)}, bytes(36)), "a hole"),
        (safe_of({"a": entry(16, 0)}, bytes(16)), "no dtype, shape and offsets"),
        (safe_of({"a": entry(-16, 0)}, bytes(16)), "no dtype, shape and offsets"),
        (safe_of({"a": entry(0, 16, [5])}, bytes(16)), "its shape needs 20"),
        (safe_of({"a": entry(0, 16, [1 << 62, 1 << 62])}, bytes(16)), "absurd shape"),
        (safe_of({"a": entry(0, 16, [-4])}, bytes(16)), "absurd shape"),
        (safe_of({"a": entry(0, 16, [0])}, bytes(16)), "its shape needs 0"),
        (safe_of({"a": entry(0, 10 << 30, [10 << 28])}, bytes(16)), "end at byte"),
        (safe_of({"a": entry(0, 16, [4], "F33")}, bytes(16)), "(F33)"),
        (safe_of({"a": entry(0, 16, [1] * 9)}, bytes(16)), "no dtype, shape"),
        (safe_of({"a": 7}, bytes(16)), "no dtype, shape"),
        (safe_of({"": entry(0, 16)}, bytes(16)), "is no name"),
        (safe_of(b'{"a":{},"a":{}}', bytes(16)), "no JSON object"),
        (safe_of({"__metadata__": {"heracles": "["}}, b""), "notes in its metadata"),
        (safe_of({"__metadata__": {"heracles": "{}"}}, b""), "not those of nn2torch"),
        (safe_of({"__metadata__": {"heracles": '{"heracles":1,"header":"AAAA","tensors":[]}'}}, b""), "msgpack"),
    ]:
        refuse(b, data, words)
    refuse(b, read("net.safetensors"), "no entries to choose from", options="--key net")
    safe = read("net.safetensors")
    for at in spread(len(safe) // 2, 120):
        write("flipped.pth", flipped(safe, at, 1 << at % 8))
        b.either("torch2nn -q -o out.nn flipped.pth", "flipped.pth", **ROOM)


CLAIMS = {f.__name__: f for f in [ages, pickles, tensors, containers]}

if __name__ == "__main__":
    bench = Bench()
    CLAIMS[sys.argv[1]](bench)
    bench.end()
