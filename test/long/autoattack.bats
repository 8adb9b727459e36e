# test/long/autoattack.bats -- AutoAttack at its published settings on 1,000 test images of a network trained by the
# demo's settings, against torchattacks (from the registry, or where PYTHON finds it) and against the same attacks
# written again (test/peers/strong_attacks.py): every part within half a point. About half an hour on two cores.

setup_file() {
    load ../helpers
    load ../fashion
    fashion "$BATS_FILE_TMPDIR" 10000 1000
    cd "$BATS_FILE_TMPDIR" || return
    advtrain -q --arch resS -d train.tfrecord --eps 0.1 --step 0.025 --batch 128 --steps 7 --weight-decay 5e-4 \
        --schedule cosine --epochs 2 --lr 0.1 --warmup-steps 40 -o net.nn
    nn2torch -q -o net.pth net.nn
    adveval -q -d test.tfrecord --eps 0.1 --attacks clean,apgd-ce,apgd-dlr,apgd-t,fab-t,square,aa \
        --outcomes out.tsv -o eval.json net.nn
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
}

compare() { # compare PEER
    run "$PYTHON" "$ROOT/test/peers/strong_attacks.py" "$1" 0.5 "$D/net.pth" "$D/test.tfrecord" "$D/eval.json" \
        "$D/out.tsv"
    echo "$output" | tee "$BATS_FILE_TMPDIR/$1.txt" >&3
    assert_success
}

@test "AutoAttack leaves between 20 and 70 %, so that agreement means something" {
    run python3 -c '
import json, sys
(a,) = (a for a in json.load(open(sys.argv[1]))["attacks"] if a["name"] == "aa")
assert 20 <= a["accuracy"] <= 70, a' "$D/eval.json"
    assert_success
}

@test "each part and the whole are within half a point of torchattacks" {
    load ../peers/torchattacks
    torchattacks_python "${BUILD:-$ROOT/build}/torchattacks" || skip "no Python here has torch and torchattacks"
    compare torchattacks
}

@test "each part and the whole are within half a point of the same attacks written again" {
    need_python torch numpy
    compare own
}
