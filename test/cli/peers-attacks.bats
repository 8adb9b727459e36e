# test/cli/peers-attacks.bats -- AutoAttack's parts against the same attacks written again from their papers, in PyTorch
# and float64 (test/peers/strong_attacks.py): the same images break.

# bats file_tags=slow
setup_file() {
    load ../helpers
    load ../fashion
    fashion "$BATS_FILE_TMPDIR" 2000 100
    cd "$BATS_FILE_TMPDIR" || return
    advtrain -q --threads 1 --arch resS -d train.tfrecord --eps 0.1 --step 0.05 --steps 3 --epochs 2 --batch 64 --lr 0.1 \
        --warmup-steps 10 -o net.nn
    nn2torch -q -o net.pth net.nn
}

setup() {
    load ../helpers
    need_python torch numpy
    D=$BATS_FILE_TMPDIR
}

@test "the parts of AutoAttack break the images that they break in PyTorch" {
    adveval -q -d "$D/test.tfrecord" --eps 0.05 --limit 60 --attacks clean,apgd-ce,apgd-dlr,apgd-t,fab-t,square,aa \
        --iterations 15 --queries 60 --targets 2 --outcomes out.tsv -o eval.json "$D/net.nn"
    run "$PYTHON" "$ROOT/test/peers/strong_attacks.py" own 1.7 "$D/net.pth" "$D/test.tfrecord" eval.json out.tsv
    echo "$output"
    assert_success
    # the test can tell attacks apart: neither all images break nor none
    assert_equal "$(python3 -c '
import json
a = {a["name"]: a["correct"] for a in json.load(open("eval.json"))["attacks"]}
print(a["clean"] >= 40, 12 <= a["aa"] <= 42, a["apgd-ce"] < a["square"])')" "True True True"
}
