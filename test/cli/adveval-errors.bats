# adveval: what it refuses, in one line, leaving nothing behind.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 100 20 --epochs 1
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
    RUN="run --separate-stderr adveval -q --threads 1 --attacks clean"
}

@test "adveval --help and --version go to stdout with status 0" {
    run --separate-stderr adveval --help
    assert_success
    assert_equal "$stderr" ""
    assert_line --partial "usage: adveval"
    assert_line --partial "Example:"
    run adveval --version
    assert_success
    assert_output --partial "adveval (HERACLES)"
}

@test "adveval: wrong usage is status 2 with a hint" {
    local args
    for args in "" "net.nn" "-d x" "-d x a b" "-d - -" "-d x --serve -" "-d x --serve -o y a" "-d x --batch 0 a" \
        "-d x --bn batch --batch 2 a" "-d x --serve --batch 2 a" "-d x --bn odd a" "-d x --bn recalibrate a" "-d x --serve --reward-after 2 a" "-d x --serve --train x a" "-d x --train x --reward-after 2 a" "-d x --serve --bn recalibrate --batch 2 a" "-d x --eps 2 a" "-d x -r rows a" \
        "-d x --restarts 0 a"; do
        run --separate-stderr adveval $args
        assert_equal "$status: $args" "2: $args"
        [[ "$stderr" == *"Try 'adveval --help'"* ]]
    done
    for args in pgd "clean,foo" "" "pgd0"; do
        run --separate-stderr adveval -d "$D/test.tfrecord" --attacks "$args" "$D/net.nn"
        assert_equal "$status: $args" "2: $args"
    done
    run --separate-stderr adveval -d "$D/test.tfrecord" --label $'\xff' "$D/net.nn"
    assert_equal "$status" 2
}

@test "adveval: missing, cut and foreign inputs are refused by name" {
    $RUN -d missing.tfrecord -o out.json "$D/net.nn"
    assert_refused out.json
    [[ "$stderr" == "adveval: missing.tfrecord: "* ]]
    $RUN -d "$D/test.tfrecord" -o out.json missing.nn
    assert_refused out.json
    [[ "$stderr" == "adveval: missing.nn: "* ]]
    head -c 100000 "$D/net.nn" >cut.nn
    $RUN -d "$D/test.tfrecord" -o out.json cut.nn
    assert_refused out.json
    [[ "$stderr" == "adveval: cut.nn: "* ]]
    head -c 10000 "$D/test.tfrecord" >cut.tfrecord
    $RUN -d cut.tfrecord -o out.json "$D/net.nn"
    assert_refused out.json
    [[ "$stderr" == "adveval: cut.tfrecord: "* ]]
    $RUN -d "$D/net.nn" -o out.json "$D/net.nn"
    assert_refused out.json
    $RUN -d "$D/test.tfrecord" -o out.json "$D/test.tfrecord"
    assert_refused out.json
    "$(dirname "$BIN")/test/mknn" vgg2 1 colour.nn
    $RUN -d "$D/test.tfrecord" -o out.json colour.nn
    assert_refused out.json
    [[ "$stderr" == *3x32x32*1x28x28* || "$stderr" == *1x28x28*3x32x32* ]]
}

@test "adveval: a stream that ends early is refused" {
    local bytes
    for bytes in 0 1 50 5000 $(($(stat -c %s "$D/net.nn") - 1)); do
        run --separate-stderr bash -c 'head -c '$bytes' "$0/net.nn" | adveval -q -d "$0/test.tfrecord" --attacks clean -' "$D"
        assert_refused
        assert_equal "$output" ""
        [[ "$stderr" == "adveval: <stdin>: "* ]]
    done
}

@test "adveval: outputs that cannot be written are status 1" {
    $RUN -d "$D/test.tfrecord" -o no/such/dir/x.json "$D/net.nn"
    assert_refused no/such/dir/x.json
    run --separate-stderr bash -c 'adveval -q -d "$0/test.tfrecord" --attacks clean "$0/net.nn" >/dev/full' "$D"
    assert_refused
    run --separate-stderr bash -c 'adveval -q -d "$0/test.tfrecord" --attacks clean "$0/net.nn" >&-' "$D"
    assert_refused
    $RUN -d "$D/test.tfrecord" --limit 3 --stratified --attacks fgsm "$D/net.nn"
    assert_refused # fewer images than classes
}
