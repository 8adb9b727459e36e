# test/cli/tfrec-convert.bats -- what tfrec-convert makes of Fashion-MNIST, read by an independent reader.
# The conversion runs once for the file; every test looks at it.

FASHION=/usr/share/datasets/fashion-mnist

setup_file() {
    load ../helpers
    export MADE=$BATS_FILE_TMPDIR/FashionMNIST
    if [ -e "$FASHION" ]; then
        tfrec-convert --set fashion-mnist -o "$MADE" "$FASHION" 2>"$BATS_FILE_TMPDIR/words"
    fi
}

setup() {
    load ../helpers
    [ -e "$FASHION" ] || skip "Debian's dataset-fashion-mnist is not installed"
    export PYTHONPATH=$ROOT/test
}

# Small IDX files (plain): 20 training and 6 test images of 3x2 pixels, two classes.
mkidx() { # mkidx DIR
    mkdir -p "$1"
    need_python struct
    "$PYTHON" - "$1" <<'PY'
import struct, sys
for name, n in ("train", 20), ("t10k", 6):
    with open(f"{sys.argv[1]}/{name}-images-idx3-ubyte", "wb") as f:
        f.write(struct.pack(">IIII", 0x803, n, 3, 2) + bytes((7 * i) % 256 for i in range(n * 6)))
    with open(f"{sys.argv[1]}/{name}-labels-idx1-ubyte", "wb") as f:
        f.write(struct.pack(">II", 0x801, n) + bytes(i % 2 for i in range(n)))
PY
}

@test "tfrec-convert: Fashion-MNIST becomes 60000 train, 10000 test, 6000 holdout, 54000 rest images" {
    run cat "$BATS_FILE_TMPDIR/words"
    assert_output --partial "classes 10 train 60000 test 10000 holdout 6000 rest 54000"
    need_python json
    "$PYTHON" - "$MADE" <<'PY'
import collections, sys, tfrecord
sizes = {"train": 60000, "test": 10000, "holdout": 6000, "rest": 54000}
seen = {}
for split, size in sizes.items():
    images = []
    for data in tfrecord.records(f"{sys.argv[1]}/{split}.tfrecord", checked=5):
        e = tfrecord.example(data)
        assert set(e) == {"image/encoded", "image/format", "image/class/label", "image/height", "image/width"}, e
        assert len(e["image/encoded"]) == 784 and e["image/height"] == e["image/width"] == 28
        images.append((e["image/encoded"], e["image/class/label"]))
    assert len(images) == size, (split, len(images))
    assert collections.Counter(y for _, y in images) == {k: size // 10 for k in range(10)}, split
    seen[split] = images
# holdout and rest are train, in two parts and in another order
assert collections.Counter(seen["holdout"] + seen["rest"]) == collections.Counter(seen["train"])
rest = set(seen["rest"])
assert seen["rest"][:1000] != [image for image in seen["train"] if image in rest][:1000]
PY
}

@test "tfrec-convert: the pixels and labels are those that Python's gzip reads" {
    need_python gzip
    "$PYTHON" - "$MADE" "$FASHION" <<'PY'
import gzip, sys, tfrecord
for split, name in ("train", "train"), ("test", "t10k"):
    pixels = gzip.open(f"{sys.argv[2]}/{name}-images-idx3-ubyte.gz").read()[16:]
    labels = gzip.open(f"{sys.argv[2]}/{name}-labels-idx1-ubyte.gz").read()[8:]
    for i, data in enumerate(tfrecord.records(f"{sys.argv[1]}/{split}.tfrecord")):
        e = tfrecord.example(data)
        assert e["image/encoded"] == pixels[784 * i : 784 * i + 784] and e["image/class/label"] == labels[i], i
PY
}

@test "tfrec-convert: protobuf's own library reads a record as a tf.train.Example with a map" {
    need_python google.protobuf
    "$PYTHON" - "$MADE" <<'PY'
import sys, tfrecord
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
F = descriptor_pb2.FieldDescriptorProto
file = descriptor_pb2.FileDescriptorProto(name="e.proto", package="t", syntax="proto3")
def message(name, into=file.message_type):
    m = into.add() if into is file.message_type else into.nested_type.add()
    m.name = name
    return m
def field(m, name, number, kind, label=F.LABEL_OPTIONAL, type_name=None):
    return m.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)
for name, kind in ("BytesList", F.TYPE_BYTES), ("FloatList", F.TYPE_FLOAT), ("Int64List", F.TYPE_INT64):
    field(message(name), "value", 1, kind, F.LABEL_REPEATED)
feature = message("Feature")
feature.oneof_decl.add(name="kind")
for i, name in enumerate(("BytesList", "FloatList", "Int64List")):
    field(feature, name.lower(), i + 1, F.TYPE_MESSAGE, type_name=".t." + name).oneof_index = 0
features = message("Features")
entry = message("FeatureEntry", features)
entry.options.map_entry = True
field(entry, "key", 1, F.TYPE_STRING)
field(entry, "value", 2, F.TYPE_MESSAGE, type_name=".t.Feature")
field(features, "feature", 1, F.TYPE_MESSAGE, F.LABEL_REPEATED, ".t.Features.FeatureEntry")
field(message("Example"), "features", 1, F.TYPE_MESSAGE, type_name=".t.Features")
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Example = message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("t.Example"))
for i, data in zip(range(50), tfrecord.records(f"{sys.argv[1]}/test.tfrecord")):
    e, mine = Example.FromString(data).features.feature, tfrecord.example(data)
    assert set(e) == set(mine)
    assert e["image/encoded"].byteslist.value[0] == mine["image/encoded"]
    assert list(e["image/class/label"].int64list.value) == [mine["image/class/label"]]
PY
}

@test "tfrec-convert: the manifest tells counts, classes, shape, overlaps and history, and no path or time" {
    need_python json
    "$PYTHON" - "$MADE" "$FASHION" <<'PY'
import hashlib, json, struct, sys, tfrecord
m = json.load(open(sys.argv[1] + "/manifest.json"))
assert m["name"] == "FashionMNIST" and m["classes"] == 10
assert m["shape"] == {"channels": 1, "height": 28, "width": 28}
got = {k: (s["file"], s["images"], s["subset_of"]) for k, s in m["splits"].items()}
assert got == {"train": ("train.tfrecord", 60000, None), "test": ("test.tfrecord", 10000, None),
               "holdout": ("holdout.tfrecord", 6000, "train"), "rest": ("rest.tfrecord", 54000, "train")}
assert m["splits"]["holdout"]["per_class"] == [600] * 10
for name, s in m["splits"].items():
    sha, labels = hashlib.sha256(), b""
    for data in tfrecord.records(f"{sys.argv[1]}/{name}.tfrecord"):
        e = tfrecord.example(data)
        sha.update(e["image/encoded"])
        labels += struct.pack("<I", e["image/class/label"])
    sha.update(labels + b"%d 28 28 1\n" % s["images"])
    assert s["digest"] == sha.hexdigest(), name
h = m["history"]
assert h["tool"] == "tfrec-convert" and h["options"] == {
    "set": "fashion-mnist", "holdout": 0.1, "name": None, "checksum": "verify", "seed": 1234, "holdout-each": 0, "side": 224, "shards": 64}
sha = hashlib.sha256(open(sys.argv[2] + "/train-images-idx3-ubyte.gz", "rb").read()).hexdigest()
assert {"role": "train images", "sha256": sha} in h["inputs"] and len(h["inputs"]) == 4
assert sys.argv[1] not in json.dumps(m) and sys.argv[2] not in json.dumps(m)
PY
}

@test "tfrec-convert: the same seed gives the same bytes, another seed another holdout of the same train" {
    mkidx src
    tfrec-convert -q --set idx --holdout 0.3 -o a src
    tfrec-convert -q --set idx --holdout 0.3 -o b src
    tfrec-convert -q --set idx --holdout 0.3 --seed 2 -o c src
    diff -r a b
    cmp a/train.tfrecord c/train.tfrecord
    run -1 cmp -s a/holdout.tfrecord c/holdout.tfrecord
}

@test "tfrec-convert: gzipped and plain files of the same content give the same tfrecords" {
    mkidx plain
    cp -r plain zipped
    gzip zipped/*
    tfrec-convert -q --set idx -o a plain
    tfrec-convert -q --set idx -o b zipped
    for split in train test holdout rest; do
        cmp a/$split.tfrecord b/$split.tfrecord
    done
}

@test "tfrec-convert: classes and shape of --set idx come from the files, --name names it" {
    mkidx src
    tfrec-convert -q --set idx --name Tiny -o made src
    need_python json
    run "$PYTHON" -c 'import json; m = json.load(open("made/manifest.json"))
print(m["name"], m["classes"], m["shape"], [s["images"] for s in m["splits"].values()])'
    assert_output "Tiny 2 {'channels': 1, 'height': 3, 'width': 2} [20, 6, 2, 18]"
}
