# maskapply: networks pruned by rules and strategy files, alone and in pipes.
setup() {
    load ../helpers
    MKNN=$(dirname "$BIN")/test/mknn
    "$MKNN" resS 1 net.nn
}

pick() { # pick FILE EXPRESSION: what a Python expression makes of the JSON document j
    python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

@test "maskapply: same network and strategy, same bytes, from a file or a pipe" {
    maskapply -q -s lamp:0.1 -o a.nn net.nn
    maskapply -q -s lamp:0.1 net.nn >b.nn
    maskapply -q -s lamp:0.1 - <net.nn >c.nn
    cmp a.nn b.nn
    cmp a.nn c.nn
}

@test "maskapply: every rule keeps no more than the uniform budget, and nearly all of it" {
    local reg rule
    for reg in weight channel; do
        for rule in uniform+ erk lamp global; do
            run --separate-stderr maskapply -s $rule:0.5 -r $reg -o out.nn net.nn
            assert_success
            # "maskapply: erk:0.5 weight inout asked A kept B"; one channel of these layers is up to 2 % of all
            awk '$4 == "inout" { n++; if ($8 > $6 * 1.00001 || $8 < $6 * 0.98) exit 1 }
                 END { exit n != 1 }' <<<"$stderr"
        done
    done
}

@test "maskapply --quiet says nothing, and the table of kept counts adds up" {
    run --separate-stderr maskapply -q -s erk:0.1 --report r.tsv --strategy-out s.json -o out.nn net.nn
    assert_success
    assert_equal "$output$stderr" ""
    assert_equal "$(head -1 r.tsv)" $'layer\trate\tkept\tof\tweights\tweights_kept\tmacs\tmacs_kept'
    assert_equal "$(awk 'NR > 1 { k += $6 } END { print k }' r.tsv)" 7707 # floor(0.1 * 77072)
    maskapply -q -s erk:0.1 --report r.json -o out.nn net.nn
    assert_equal "$(pick r.json 'sum(l["weights_kept"] for l in j["layers"])')" 7707
    assert_equal "$(pick r.json 'j["reg"]')" weight
}

@test "maskapply: a strategy written by --strategy-out makes the same masks again" {
    local reg
    for reg in weight channel; do
        maskapply -q -s erk:0.3 -r $reg --strategy-out s.json --report a.tsv --label mine -o a.nn net.nn
        assert_equal "$(pick s.json '[(a, r, *j[a][r]) for a in j for r in j[a]]')" "[('resS', '$reg', 'mine')]"
        maskapply -q -s s.json -r $reg --report b.tsv -o b.nn net.nn
        cmp a.tsv b.tsv
        maskapply -q -s "s.json:resS/$reg/mine" -r $reg -o c.nn net.nn
        cmp b.nn c.nn
    done
}

@test "maskapply: strategy, label and history travel in the product, without paths" {
    maskapply -q -s erk:0.1 --label ERK --strategy-out s.json -o a.nn net.nn
    mkdir -p some/where
    cp s.json some/where/secret.json
    maskapply -q -s some/where/secret.json -o b.nn a.nn
    run grep -a -c -e secret -e where -e "$BATS_TEST_TMPDIR" b.nn
    assert_output 0
    grep -a -q '"strategy":{"id":"ERK","label":"ERK","reg":"weight"' b.nn
    grep -a -q '"role":"network"' b.nn
    # the strategy's digest is that of its entry: other rates, other digest
    digest() { grep -a -o '"role":"strategy","sha256":"[0-9a-f]\{64\}"' "$1"; }
    digest b.nn
    sed 's/0\.197916666666667/0.1975/; s/ 456,/ 455,/' s.json >t.json
    maskapply -q -s t.json -o c.nn a.nn
    run ! test "$(digest b.nn)" = "$(digest c.nn)"
}

@test "maskapply --plan writes rates, no masks and no zeros" {
    maskapply -q -s uniform:0.1 --plan -o plan.nn net.nn
    maskapply -q -s uniform:0.1 -o active.nn net.nn
    run grep -a -c 'conv1\.mask' plan.nn
    assert_output 0
    grep -a -q planned plan.nn
    grep -a -q 'conv1\.mask' active.nn
    # planning on an already pruned network drops its masks
    maskapply -q -s uniform:0.1 --plan -o again.nn active.nn
    run grep -a -c 'conv1\.mask' again.nn
    assert_output 0
}

@test "maskapply: channel pruning keeps the image channels, unless --prune-first" {
    "$MKNN" vgg2 1 rgb.nn
    maskapply -q -s uniform:0.1 -r channel --report r.json -o out.nn rgb.nn
    assert_equal "$(pick r.json '[l["kept"] for l in j["layers"]]')" "[3, 6, 26, 26, 26]"
    maskapply -q -s uniform:0.1 -r channel --prune-first --report r.json -o out.nn rgb.nn
    assert_equal "$(pick r.json '[l["kept"] for l in j["layers"]]')" "[1, 6, 26, 26, 26]"
}

@test "maskapply: a published list over its ID's budget fails, --target and a tolerance let it pass" {
    cat >s.json <<<'{"resS": {"weight": {"010_0": [1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 1]}}}'
    run --separate-stderr maskapply -s s.json -o out.nn net.nn
    assert_refused out.nn
    assert_regex "$stderr" '^maskapply: strategy resS/weight/010_0 costs 0\.208[0-9]* \(inout\), it claims 0\.1 '
    run --separate-stderr maskapply -q -s s.json --target 0.21 -o out.nn net.nn
    assert_success
    assert_regex "$stderr" '^maskapply: warning: strategy resS/weight/010_0 .* it claims 0\.1 '
    run --separate-stderr maskapply -s s.json --target 0.2 -o no.nn net.nn
    assert_refused no.nn
    run maskapply -q -s s.json --budget-tolerance 1.1 -o out.nn net.nn
    assert_success
}

@test "maskapply: kept weights are untouched, pruned ones are exactly zero, in a pipe to a reader of the format" {
    need_python msgpack
    sed -n '/^```python$/,/^```$/{/^```/!p;}' "$ROOT/lib/model/FORMAT.md" >read_nn.py
    cat >check.py <<'P'
import struct, sys
from read_nn import read_nn
dense = read_nn(open("net.nn", "rb"))[2]
header, notes, pruned = read_nn(sys.stdin.buffer)
reg, kept = sys.argv[1], {p["layer"]: p["kept"] for p in header["prune"]}
assert len(kept) == 10 and notes["meta"]["strategy"]["reg"] == reg
for layer, count in kept.items():
    dtype, shape, data = pruned[layer + ".weight"]
    n, taps = len(data) // 4, (shape + [1, 1])[2] * (shape + [1, 1])[3]
    before, after = (struct.unpack("<%dI" % n, t[layer + ".weight"][2]) for t in (dense, pruned))
    mask = pruned[layer + ".mask"][2]
    assert sum(mask) == count and len(mask) == (n if reg == "weight" else shape[1])
    for i in range(n):
        keep = mask[i if reg == "weight" else i // taps % shape[1]]
        assert after[i] == (before[i] if keep else 0), (layer, i)
P
    local reg
    for reg in weight channel; do
        maskapply -q -s lamp:0.3 -r $reg net.nn | "$PYTHON" check.py $reg
    done
}

@test "maskapply: nninfo at the end of a pipe sees the masks, and the chain that made them" {
    maskapply -q -s erk:0.1 net.nn | nninfo - >table.txt
    grep -q '^7707 weights kept' table.txt
    assert_equal "$(grep -c ' active *[0-9]*$' table.txt)" 10
    maskapply -q -s uniform:0.5 net.nn | maskapply -q -s uniform:0.1 - | nninfo --history - >history.json
    assert_equal "$(pick history.json 'j["options"]["strategy"], j["inputs"][0]["history"]["options"]["strategy"]')" \
        "('uniform:0.1', 'uniform:0.5')"
}
