# lib/model/FORMAT.md against the program: its Python reader is taken out of the page and run.
setup() {
    load ../helpers
    need_python msgpack
    MKNN=$(dirname "$BIN")/test/mknn
    sed -n '/^```python$/,/^```$/{/^```/!p;}' "$ROOT/lib/model/FORMAT.md" >read_nn.py
}

@test "FORMAT.md: its Python reader finds the tensors that nninfo --tensors lists" {
    "$MKNN" resS 1 net.nn
    maskapply -q -s lamp:0.1 -o masked.nn net.nn
    maskapply -q -s uniform:0.5 -r channel -o channel.nn net.nn
    "$MKNN" vgg8_bn 1 vgg.nn
    local f
    for f in net masked channel vgg; do
        "$PYTHON" read_nn.py $f.nn >python
        nninfo --tensors --format tsv $f.nn | tail -n +2 | cmp - python
    done
    grep -q $'^linear.mask\tuint8\t1x64\t' <("$PYTHON" read_nn.py channel.nn)
}

@test "FORMAT.md: its Python reader finds the graph, the prune records and the notes" {
    "$MKNN" resS 1 net.nn
    maskapply -q -s uniform:0.5 -r channel -o channel.nn net.nn
    "$PYTHON" - <<'P'
import read_nn
header, notes, tensors = read_nn.read_nn(open("channel.nn", "rb"))
assert list(header) == ["format", "version", "arch", "classes", "graph", "prune", "tensors"], list(header)
assert list(notes) == ["meta", "history"] and notes["history"]["tool"] == "maskapply"
nodes = {n["id"]: n for n in header["graph"]}
assert nodes["input"]["attrs"] == {"shape": [1, 28, 28]}
assert nodes["conv1"]["attrs"] == {"kernel": [3, 3], "stride": 2, "pad": 1}
assert nodes["layer2.0.shortcut.0"]["attrs"]["tie"] == "layer2.0.conv1"
assert nodes["bn1"]["attrs"] == {"eps": 1e-5, "momentum": 0.1}
assert nodes["avgpool"]["attrs"] == {"size": [1, 1]}
for n in header["graph"]:
    assert list(n) == ["id", "op", "in", "attrs", "params"]
    for role, name in n["params"].items():
        assert name == n["id"] + "." + role and tensors[name][0] == "float32"
for p in header["prune"]:
    mask = tensors[p["layer"] + ".mask"]
    assert p["reg"] == "channel" and p["state"] == "active" and sum(mask[2]) == p["kept"], p
    assert abs(p["rate"] * len(mask[2]) - p["kept"]) < 1e-9
P
}

@test "FORMAT.md: its Python reader refuses a damaged file" {
    "$MKNN" resS 1 net.nn
    { head -c 100000 net.nn; printf 'XXXX'; tail -c +100005 net.nn; } >damaged.nn
    run "$PYTHON" read_nn.py damaged.nn
    assert_failure
    assert_output --partial "damaged"
}
