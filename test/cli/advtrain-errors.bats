# advtrain: what it refuses, in one line, leaving nothing behind.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 100 20 --epochs 1
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
    RUN="run --separate-stderr advtrain -q --threads 1 --epochs 1 --batch 50 --steps 1"
}

@test "advtrain --help and --version go to stdout with status 0" {
    run --separate-stderr advtrain --help
    assert_success
    assert_equal "$stderr" ""
    assert_line --partial "usage: advtrain"
    assert_line --partial "Example:"
    run advtrain --version
    assert_success
    assert_output --partial "advtrain (HERACLES)"
}

@test "advtrain: wrong usage is status 2 with a hint" {
    local args
    for args in "" "-d x" "-d x -o y" "-d x -o y --arch resS net.nn" "-d x -o y a b" "-d x -o y --stage nap a" \
        "-d x -o y --lr 0 a" "-d x -o y --lr 1x a" "-d x -o y --epochs 0 a" "-d x -o y --epochs 0 --stage admm a" \
        "-d x -o y --loss trads a" "-d x -o y --repeats 0 a" "-d x -o y --admm-every 0 a" "-d x -o y --scores none a" "-d x -o y --batch 1 a" \
        "-d x -o y --schedule multistep a" "-d x -o y --milestones 3,2 a" "-d x -o y --milestones 1.5 a" \
        "-d x -o y --warmup-loss free a" "-d x -o y --pseudo-labels n a" "-d x -o y --classes 3 a" "-d x -o y --frobnicate a" "-d x -o y --select best a" "-d - -o y -" "-d x -o - --log - a"; do
        run --separate-stderr advtrain $args
        assert_equal "$status: $args" "2: $args"
        [[ "$stderr" == *"Try 'advtrain --help'"* ]]
        assert_not_exists y
    done
}

@test "advtrain: missing, cut and foreign inputs are refused by name" {
    $RUN -d missing.tfrecord -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" == "advtrain: missing.tfrecord: "* ]]
    $RUN -d "$D/train.tfrecord" -o out.nn missing.nn
    assert_refused out.nn
    [[ "$stderr" == "advtrain: missing.nn: "* ]]
    head -c 100000 "$D/net.nn" >cut.nn
    $RUN -d "$D/train.tfrecord" -o out.nn cut.nn
    assert_refused out.nn
    [[ "$stderr" == "advtrain: cut.nn: "* ]]
    $RUN -d "$D/train.tfrecord" -o out.nn - <cut.nn
    assert_refused out.nn
    [[ "$stderr" == "advtrain: <stdin>: "* ]]
    head -c 10000 "$D/train.tfrecord" >cut.tfrecord
    $RUN -d cut.tfrecord -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" == "advtrain: cut.tfrecord: "* ]]
    $RUN -d "$D/train.tfrecord" -e cut.tfrecord -o out.nn "$D/net.nn"
    assert_refused out.nn
    $RUN -d "$D/train.tfrecord" --extra cut.tfrecord -o out.nn "$D/net.nn"
    assert_refused out.nn
    $RUN -d "$D/train.tfrecord" --extra missing.tfrecord -o out.nn "$D/net.nn"
    assert_refused out.nn
    $RUN -d "$D/net.nn" -o out.nn "$D/net.nn"
    assert_refused out.nn
    $RUN -d "$D/train.tfrecord" -o out.nn "$D/train.tfrecord"
    assert_refused out.nn
    $RUN -d "$D/train.tfrecord" -o out.nn --arch resnet19
    assert_refused out.nn
    [[ "$stderr" == *resnet18* ]] # names what there is
}

@test "advtrain: a network for other images is refused before anything is written" {
    "$(dirname "$BIN")/test/mknn" vgg2 1 colour.nn
    $RUN -d "$D/train.tfrecord" --log log -o out.nn colour.nn
    assert_refused out.nn log
    [[ "$stderr" == *3x32x32*1x28x28* || "$stderr" == *1x28x28*3x32x32* ]]
}

@test "advtrain: a stage refuses a network that does not fit it" {
    $RUN -d "$D/train.tfrecord" --stage prune -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" == *net.nn*"maskapply --plan"* ]]
    $RUN -d "$D/train.tfrecord" --stage finetune -o out.nn "$D/net.nn"
    assert_refused out.nn
    $RUN -d "$D/train.tfrecord" --stage admm -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" == *net.nn*"--stage admm"*"maskapply --plan"* ]]
    maskapply -q -s uniform:0.5 -o pruned.nn "$D/net.nn"
    $RUN -d "$D/train.tfrecord" --stage pretrain -o out.nn pruned.nn
    assert_refused out.nn
}

@test "advtrain: the best epoch must not be chosen on training images, says the manifest; else it is recorded" {
    mkdir data
    cp "$D"/t*.tfrecord data
    local parent
    for parent in '"train"' null; do
        cat >data/manifest.json <<X
{"version": 1, "name": "F", "classes": 10, "shape": {"channels": 1, "height": 28, "width": 28}, "splits": {
"train": {"file": "train.tfrecord", "images": 100, "subset_of": null},
"holdout": {"file": "test.tfrecord", "images": 20, "subset_of": $parent}}}
X
        $RUN -d data/train.tfrecord -e data/test.tfrecord --select best -o out.nn "$D/net.nn"
        [ "$parent" = null ] || assert_refused out.nn
        [ "$parent" = null ] || [[ "$stderr" == *"data/test.tfrecord: has images of data/train.tfrecord"* ]]
        [ "$parent" != null ] || assert_success
    done
    run -0 grep -aoE 'selection.{120}' out.nn
    [[ "$output" == *holdout* ]]
    # the published programs' way, and called so
    sed -i 's/"holdout"/"test"/' data/manifest.json
    $RUN -d data/train.tfrecord -e data/test.tfrecord --select best -o on-test.nn "$D/net.nn"
    assert_success
    run -0 grep -aoE 'selection.{120}' on-test.nn
    [[ "$output" == *test* && "$output" != *holdout* ]]
    $RUN -d data/train.tfrecord -e data/train.tfrecord --select best -o two.nn "$D/net.nn"
    assert_refused two.nn
    $RUN -d data/train.tfrecord -e data/test.tfrecord -o last.nn out.nn
    assert_success
    run ! grep -aqE 'selection.{1,9}epoch' last.nn # it is the last one of its own training
}

@test "advtrain: divergence is status 1 and says so" {
    $RUN -d "$D/train.tfrecord" --lr 1e6 --epochs 3 --batch 10 --schedule constant -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" == *diverged*--lr* ]]
}

@test "advtrain: a run that diverges says at which step, and keeps the last state that has only numbers in it" {
    local o="-d $D/train.tfrecord --batch 10 --loss natural --schedule multistep --milestones 1 --limit 100 --save-every 0"
    # a good first epoch; then a rate that no network survives
    $RUN $o --epochs 3 --lr 1e6 --warmup-epochs 1 --warmup-lr 0.01 -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" =~ diverged.*step\ [0-9]+\ of\ epoch\ 2 ]]
    local first=$stderr
    assert_exists out.nn.state
    cp out.nn.state kept
    # what was kept is the end of the first epoch or a step behind it: from there it diverges in the same way
    $RUN $o --epochs 3 --lr 1e6 --warmup-epochs 1 --warmup-lr 0.01 -o out.nn "$D/net.nn"
    assert_equal "$status" 1
    [[ "$stderr" == *"${first#*: }"* ]]
    cmp kept out.nn.state
    python3 - <<'PY'
import array
data = open("kept", "rb").read()
for at in range(4):  # no block of the state has several infinities in a row, whatever it is aligned to
    v = array.array("I", data[at:len(data) - (len(data) - at) % 4])
    bad = [x & 0x7F800000 == 0x7F800000 for x in v]
    assert not any(all(bad[i:i + 4]) for i in range(len(bad))), at
PY
}

@test "advtrain: an output that cannot be written fails before the training" {
    $RUN -d "$D/train.tfrecord" --epochs 100000 -o no/such/dir/out.nn "$D/net.nn"
    assert_refused
    $RUN -d "$D/train.tfrecord" --epochs 100000 --log no/such/log -o out.nn "$D/net.nn"
    assert_refused out.nn
    run --separate-stderr bash -c 'advtrain -q --threads 1 -d "$0/train.tfrecord" --epochs 1 --loss natural -o - "$0/net.nn" >/dev/full' "$D"
    assert_equal "$status" 1
    $RUN -d "$D/train.tfrecord" --log /dev/full -o out.nn "$D/net.nn"
    assert_refused out.nn
    [[ "$stderr" == *"/dev/full"* ]]
}
