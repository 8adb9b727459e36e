# test/long/autoattack-resnet18.bats -- AutoAttack and its parts on 50 test images of a ResNet18 against torchattacks,
# from the same starting points where the attack allows: every part within half a point, which for 50 images means the
# same number. Iterations, targets and queries are fewer than the published ones, on both sides: with those it would
# take hours. Square draws other squares there.

setup_file() {
    load ../helpers
    load ../fashion
    fashion "$BATS_FILE_TMPDIR" 2000 50
    cd "$BATS_FILE_TMPDIR" || return
    # FGSM from a random start: a robust network for the price of two passes
    advtrain -q --arch resnet18 -d train.tfrecord --loss fgsm-rs --eps 0.1 --step 0.125 --batch 64 --weight-decay 5e-4 \
        --schedule cosine --epochs 2 --lr 0.05 --warmup-steps 8 -o net.nn
    nn2torch -q -o net.pth net.nn
    adveval -q -d test.tfrecord --eps 0.1 --attacks clean,apgd-ce,apgd-dlr,apgd-t,fab-t,square,aa --iterations 20 \
        --targets 2 --queries 200 --outcomes out.tsv -o eval.json net.nn
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
}

@test "AutoAttack leaves between 20 and 70 % of ResNet18's images" {
    run python3 -c '
import json, sys
(a,) = (a for a in json.load(open(sys.argv[1]))["attacks"] if a["name"] == "aa")
assert 20 <= a["accuracy"] <= 70, a' "$D/eval.json"
    assert_success
}

@test "each part and the whole are within half a point of torchattacks on ResNet18" {
    load ../peers/torchattacks
    torchattacks_python "${BUILD:-$ROOT/build}/torchattacks" || skip "no Python here has torch and torchattacks"
    run "$PYTHON" "$ROOT/test/peers/strong_attacks.py" torchattacks 0.5 "$D/net.pth" "$D/test.tfrecord" "$D/eval.json" \
        "$D/out.tsv"
    echo "$output" >&3
    assert_success
}
