# --exact: other kernels, the same numbers but for rounding, on record.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 300 100 --epochs 2
}

setup() {
    load ../helpers
    load ../interrupt
    D=$BATS_FILE_TMPDIR
    ATTACK="--eps 0.1 --step 0.03"
    TRAIN="advtrain -q --threads 1 --arch resS -d $D/train.tfrecord --epochs 2 --batch 50 --limit 200 --steps 2 --lr 0.01 $ATTACK"
}

# pick FILE EXPRESSION: what a Python expression makes of the JSON document j
pick() {
    python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

kernels() { # kernels OPTION...: the kernels in a plan of resS, one line
    nninfo --plan --arch resS --format json "$@" >plan.json
    pick plan.json 'sorted(set(l[p] for l in j["layers"] for p in ("forward", "dx", "dw") if l[p]))'
}

@test "--exact: nninfo --plan shows no kernel of Winograd's, and some without it" {
    assert_equal "$(kernels)" "['gemm', 'im2col', 'wino4']"
    assert_equal "$(kernels --exact)" "['gemm', 'im2col']"
    assert_equal "$(kernels --exact --eval)" "['gemm', 'im2col']"
    run --separate-stderr nninfo --exact --arch resS
    assert_equal "$status" 2
}

@test "--exact: training gives other bits, nearly the same numbers, and says so in the history" {
    $TRAIN --log a.jsonl -o a.nn
    $TRAIN --log b.jsonl -o b.nn --exact
    run cmp -s a.nn b.nn
    assert_failure
    # the attack takes the sign of gradients, so that rounding moves pixels by a whole step: seen 1e-4 of the loss
    paste -d '\n' a.jsonl b.jsonl | sed 's/.*"loss":\([0-9.]*\).*/\1/' |
        awk 'NR % 2 { a = $1 } NR % 2 == 0 { d = a / $1 - 1; if (d > 1e-3 || d < -1e-3 || a == $1) exit 1 }'
    nninfo --history a.nn >a.json
    nninfo --history b.nn >b.json
    assert_equal "$(pick a.json 'j["options"]["exact"]') $(pick b.json 'j["options"]["exact"]')" "False True"
}

@test "--exact: a state from the other kernels is refused, and names the option" {
    killed write:2 $TRAIN --save-every 0 -o b.nn
    run --separate-stderr $TRAIN --save-every 0 -o b.nn --exact
    assert_refused b.nn
    assert_regex "$stderr" '^advtrain: b\.nn\.state: belongs to another run: --exact .*; --restart'
    $TRAIN -o b.nn
    $TRAIN -o a.nn
    cmp a.nn b.nn
    local eval="adveval -q --threads 1 -d $D/test.tfrecord $ATTACK --attacks clean,pgd2 --batch 20 --save-every 0"
    killed write:2 $eval -o b.json --exact "$D/net.nn"
    run --separate-stderr $eval -o b.json "$D/net.nn"
    assert_refused b.json
    assert_regex "$stderr" '^adveval: b\.json\.state: belongs to another run: --exact .*; --restart'
}

@test "--exact: adveval says the same of nearly every image, and records the option" {
    local v
    for v in "" --exact; do
        adveval -q -d "$D/test.tfrecord" $ATTACK --attacks clean,pgd5 $v --outcomes "o$v" -o "r$v" "$D/net.nn"
    done
    assert_equal "$(pick r 'j["history"]["options"]["exact"]') $(pick r--exact 'j["history"]["options"]["exact"]')" "False True"
    assert_equal "$(wc -l <o) $(diff <(cut -f1-2 o) <(cut -f1-2 o--exact) | wc -l)" "101 0"
    # an image on the very boundary may fall on the other side: here none or one of a hundred
    [ "$(diff o o--exact | grep -c '^<')" -le 1 ]
}
