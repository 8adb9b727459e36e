# nninfo: what it prints about architectures and files.
setup() {
    load ../helpers
    MKNN=$(dirname "$BIN")/test/mknn
}

pick() { # pick FILE EXPRESSION: what a Python expression makes of the JSON document j
    python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

@test "nninfo --arch resnet18 prints the published layers and totals without a checkpoint" {
    run --separate-stderr nninfo --arch resnet18
    assert_success
    assert_equal "$stderr" ""
    assert_line --index 0 "resnet18: input 3x32x32, 10 classes"
    assert_line --regexp '^ 5 +=5 +7 +layer2\.0\.shortcut\.0 +64 +128 +1x1 +2 +16x16 +8192 +2097152$'
    assert_line --regexp '^20 +17 +20 +linear +512 +10 +1x1 +1 +1x1 +5120 +5120$'
    assert_line "21 layers (18 channel decisions), 11164352 weights, 11173962 parameters, 555422720 MACs per image"
}

@test "nninfo --arch takes other inputs and classes" {
    nninfo --arch resS --input 3x64x48 --classes 100 --format json >j
    assert_equal "$(pick j 'j["input"], j["classes"], j["layers"][0]["wout"], j["layers"][-1]["out"]')" \
        "([3, 64, 48], 100, 24, 100)"
}

@test "nninfo: text, TSV and JSON hold the same numbers" {
    local arch
    for arch in vgg16_bn wrn_28_4 ResNet50 vgg2; do
        nninfo --arch $arch --format json >j
        nninfo --arch $arch --format tsv >t
        assert_equal "$(awk -F'\t' 'NR > 1 { w += $13; m += $14; n++; if (NF != 24) exit 1 } END { printf "%d %d %.0f", n, w, m }' t)" \
            "$(pick j 'str(len(j["layers"])) + " " + str(j["weights"]) + " " + str(j["macs"])')"
        assert_equal "$(tail -n +2 t | cut -f 1)" "$(pick j '"\n".join(l["name"] for l in j["layers"])')"
        nninfo --arch $arch | awk '$1 ~ /^[0-9]+$/ && NF == 11 { print $4 "\t" $10 "\t" $11 }' >text
        tail -n +2 t | cut -f 1,13,14 | cmp - text
    done
}

@test "nninfo --format json has every key that readers rely on" {
    nninfo --arch resS --format json >j
    assert_equal "$(pick j 'sorted(j)')" "['arch', 'classes', 'input', 'layers', 'macs', 'normalize', 'params', 'weights']"
    assert_equal "$(pick j '{tuple(l) for l in j["layers"]} == {("name", "op", "in", "out", "kernel", "stride", "pad",
        "hin", "win", "hout", "wout", "weights", "macs", "kept_weights", "kept_macs", "tie", "weight_index", "channel_index", "torch_index", "prune")}')" True
    assert_equal "$(pick j '[l["name"] for l in j["layers"] if l["tie"]]')" "['layer2.0.shortcut.0', 'layer3.0.shortcut.0']"
    assert_equal "$(pick j 'all(sum(m["weights"] for m in j["layers"]) == j["weights"] and
        l["weights"] == l["in"] * l["out"] * l["kernel"][0] * l["kernel"][1] for l in j["layers"])')" True
}

@test "nninfo: a file gives the same from its name, from stdin and to -o" {
    "$MKNN" resS 1 net.nn
    nninfo net.nn >a
    nninfo - <net.nn >b
    cat net.nn | nninfo -o c -
    cmp a b
    cmp a c
    nninfo --arch resS | cmp - a
}

@test "nninfo: the digest follows the weights" {
    "$MKNN" resS 1 a.nn
    "$MKNN" resS 1 b.nn
    "$MKNN" resS 2 c.nn
    for f in a b c; do nninfo --format json $f.nn >$f; done
    assert_equal "$(pick a 'len(j["digest"])')" 64
    assert_equal "$(pick a 'j["digest"]')" "$(pick b 'j["digest"]')"
    refute [ "$(pick a 'j["digest"]')" = "$(pick c 'j["digest"]')" ]
}

@test "nninfo shows what was pruned, planned and active" {
    "$MKNN" resS 1 net.nn
    maskapply -q -s uniform:0.25 --plan -o planned.nn net.nn
    run nninfo planned.nn
    assert_line --regexp '^ *1 +1 +1 +layer1\.0\.conv1 .* weight +0\.25 +576 +planned +2304$'
    maskapply -q -s uniform:0.5 -r channel -o active.nn net.nn
    run nninfo active.nn
    assert_line --regexp '^ *1 +1 +1 +layer1\.0\.conv1 .* channel +0\.5 +8 +active +1152$'
    assert_line --regexp '^ *0 +0 +0 +conv1 .* channel +1 +1 +active +144$' # the image's channel stays
    assert_line --regexp '^the masks leave [0-9]+ weights and [0-9]+ MACs per image$'
    nninfo --format json active.nn >j
    assert_equal "$(pick j 'j["layers"][1]["kept_weights"], j["layers"][1]["kept_macs"]')" "(1152, 225792)"
    assert_equal "$(pick j 'j["layers"][1]["prune"]')" "{'reg': 'channel', 'rate': 0.5, 'kept': 8, 'state': 'active'}"
    nninfo --format tsv active.nn | grep -q $'^linear\t.*\tchannel\t0.5\t32\tactive\t320\t320$'
}

@test "nninfo --history prints the chain of programs as JSON" {
    "$MKNN" resS 1 net.nn
    nninfo --history net.nn >none
    assert_equal "$(cat none)" null
    maskapply -q -s uniform:0.25 -o pruned.nn net.nn
    nninfo --history pruned.nn >j
    assert_equal "$(pick j 'j["tool"]')" maskapply
    nninfo --format json net.nn >n
    assert_equal "$(pick j '[i["sha256"] for i in j["inputs"]]')" "['$(pick n 'j["digest"]')']"
}

@test "nninfo --tensors lists the tensors as text, TSV and JSON" {
    "$MKNN" resS 1 net.nn
    nninfo --tensors --format tsv net.nn >t
    assert_equal "$(head -1 t)" $'name\tdtype\tshape\tsha256'
    assert_equal "$(sed -n 2p t | cut -f 1-3)" $'conv1.weight\tfloat32\t16x1x3x3'
    nninfo --tensors net.nn | awk '{ $1 = $1; gsub(/ /, "\t"); print }' | cmp - t
    nninfo --tensors --format json net.nn >j
    assert_equal "$(pick j '"\n".join("\t".join([t["name"], t["dtype"], "x".join(map(str, t["shape"])), t["sha256"]]) for t in j["tensors"])')" \
        "$(tail -n +2 t)"
}

@test "nninfo --stats: zeros, range, mean and deviation of every tensor are numpy's, as text, TSV and JSON" {
    need_python numpy torch
    "$MKNN" resS 1 net.nn
    nn2torch -q -o net.pth net.nn
    nninfo --stats --format json net.nn >j
    "$PYTHON" - <<'PY'
import json, math, numpy as np, torch
state = torch.load("net.pth", map_location="cpu")
state = state.get("state_dict", state)
stats = {t["name"]: t for t in json.load(open("j"))["tensors"]}
seen = 0
for name, tensor in state.items():
    if name not in stats or not hasattr(tensor, "numpy"):
        continue
    a, s = tensor.numpy().astype(np.float64), stats[name]
    seen += 1
    assert s["shape"] == list(a.shape) and s["values"] == a.size and s["not_finite"] == 0
    assert s["zeros"] == (a == 0).sum(), name
    for k, v in ("min", a.min()), ("max", a.max()), ("mean", a.mean()), ("std", a.std()):
        # 15 digits are printed, and sums are in another order
        assert math.isclose(s[k], v, rel_tol=1e-10, abs_tol=1e-12), (name, k, s[k], v)
assert seen > 20, seen
PY
    nninfo --stats --format tsv net.nn >t
    assert_equal "$(head -1 t)" $'name\tdtype\tshape\tvalues\tzeros\tnot_finite\tmin\tmax\tmean\tstd'
    nninfo --stats net.nn | awk '{ $1 = $1; gsub(/ /, "\t"); print }' | cmp - t
    assert_equal "$(cut -f 1,4,5 t | tail -n +2)" "$(pick j '"\n".join("%s\t%d\t%d" % (t["name"], t["values"], t["zeros"]) for t in j["tensors"])')"
}

@test "nninfo shows a file whose values are not finite; with --strict it fails and names the first" {
    "$MKNN" resS 1 net.nn layer1.0.conv2.weight
    "$MKNN" resS 1 sound.nn
    nninfo net.nn | cmp - <(nninfo sound.nn)
    run nninfo --stats --format tsv net.nn
    assert_success
    assert_equal "$(grep layer1.0.conv2.weight <<<"$output" | cut -f 4-6)" $'2304\t0\t1'
    run --separate-stderr nninfo --strict -o out net.nn
    assert_refused out
    assert_equal "$stderr" "nninfo: net.nn: tensor 'layer1.0.conv2.weight' is not finite at element 1"
    nninfo --strict sound.nn | cmp - <(nninfo sound.nn)
    run -2 nninfo --strict --arch resS
    run -2 nninfo --stats --tensors sound.nn
}
