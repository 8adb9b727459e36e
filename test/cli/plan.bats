# What the engine says of itself through the tools: its plan, its memory, where the time goes.
setup_file() {
    load ../helpers
    load ../fashion
    export D=$BATS_FILE_TMPDIR
    fashion "$D" 200 100
    fashion_net "$D/net.nn" "$D/train.tfrecord"
}

setup() {
    load ../helpers
}

pick() { # pick FILE EXPRESSION: what a Python expression makes of the JSON document j
    python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

@test "nninfo --plan prints a kernel for each layer and pass, and the memory of a batch" {
    run --separate-stderr nninfo --plan --arch wrn_28_4
    assert_success
    assert_equal "$stderr" ""
    assert_line --regexp '^layer +does +in +out +MACs +forward +dx +dw +weights KB +image KB$'
    assert_line --regexp '^block1\.layer\.0\.conv1 +conv2d\+batchnorm\+relu +16x32x32 +64x32x32 +9437184 +[a-z0-9]+ +[a-z0-9]+ +[a-z0-9]+ '
    assert_line --regexp '^kernels [a-z0-9]+, [0-9]+ threads, training in batches of 128 images: [0-9.]+ MB of memory, [0-9.]+ of them for any batch$'
    nninfo --plan --arch wrn_28_4 --format tsv >tsv
    nninfo --plan --arch wrn_28_4 --format json >json
    assert_equal "$(awk -F'\t' 'NR > 1 { if (NF != 10) exit 1; n += $5 } END { printf "%.0f", n }' tsv)" \
        "$(nninfo --arch wrn_28_4 --format json >layers && pick layers 'j["macs"]')"
    assert_equal "$(pick json '[l["name"] for l in j["layers"] if l["macs"] and not (l["forward"] and l["dx"] and l["dw"])]')" "[]"
    assert_equal "$(pick json 'len(j["layers"])')" "$(($(wc -l <tsv) - 1))"
}

@test "nninfo --plan: batch, threads and --eval change the memory; a file has a plan too" {
    bytes() { nninfo --plan --format json "$@" >j && pick j 'j["bytes"]'; }
    local a b c d
    a=$(bytes --threads 1 --batch 8 --arch resS)
    b=$(bytes --threads 1 --batch 80 --arch resS)
    c=$(bytes --threads 2 --batch 80 --arch resS)
    d=$(bytes --threads 1 --batch 80 --arch resS --eval)
    assert [ "$a" -lt "$b" ]
    assert [ "$b" -lt "$c" ]
    assert [ "$d" -lt "$b" ]
    assert_equal "$(bytes --threads 1 --batch 80 "$D/net.nn")" "$b"
    run --separate-stderr nninfo --batch 3 --arch resS
    assert_equal "$status" 2
    run --separate-stderr nninfo --plan --tensors "$D/net.nn"
    assert_equal "$status" 2
}

@test "--profile prints time per layer and pass on stderr and changes no byte of the result" {
    local train="advtrain -q --threads 2 --arch resS -d $D/train.tfrecord --eps 0.1 --step 0.025 --steps 2 --epochs 1 --batch 50"
    $train -o a.nn
    run --separate-stderr $train --profile -o b.nn
    assert_success
    cmp a.nn b.nn
    local pass
    for pass in forward dx dw rest weights; do
        printf '%s\n' "$stderr" | grep -qE "^layer2\.0\.conv2 +$pass +[a-z0-9-]+ +[0-9.]+ +[0-9.-]+ +[0-9.]+\$" || fail "$pass"
    done
    # the shares of all passes, and of the time outside, are all there is: 6 roundings to a hundredth
    printf '%s\n' "$stderr" | awk '$1 == "all" { sum += $NF; n++ } END { exit !(n == 6 && sum > 99.9 && sum < 100.1) }'
    adveval -q --attacks clean,pgd2 -d "$D/test.tfrecord" "$D/net.nn" >a.json
    run --separate-stderr adveval -q --profile --attacks clean,pgd2 -d "$D/test.tfrecord" -o b.json "$D/net.nn"
    assert_success
    cmp a.json b.json
    printf '%s\n' "$stderr" | grep -qE '^all +outside '
    run --separate-stderr adveval --serve --profile -d "$D/test.tfrecord" "$D/net.nn"
    assert_equal "$status" 2
}

@test "too little memory: one line says what was asked for and what fits, and that does fit" {
    (ulimit -v 700000 && nninfo --version) >/dev/null || skip "these tools need more address space to begin with"
    local work="advtrain -q --threads 1 --arch resnet18 -d $D/train.tfrecord --steps 1 --epochs 1 --limit 100"
    run --separate-stderr bash -c "ulimit -v 700000; $work --batch 512 -o a.nn"
    assert_refused a.nn
    assert_regex "$stderr" '^advtrain: resnet18 in batches of 512 images needs [0-9.]+ GB of memory, 0\.[0-9]+ GB are left; batches of up to [0-9]+ fit$'
    [[ $stderr =~ up\ to\ ([0-9]+) ]]
    bash -c "ulimit -v 700000; $work --batch ${BASH_REMATCH[1]} -o a.nn"
    assert_exist a.nn
    run --separate-stderr bash -c "ulimit -v 180000; $work --batch 8 -o b.nn"
    assert_refused b.nn
    assert_regex "$stderr" '^advtrain: resnet18 needs 0\.134 GB of memory for its parameters alone, 0\.[0-9]+ GB are left; not even one image fits$'
    run --separate-stderr bash -c "ulimit -v 150000; adveval --threads 1 --batch 60000 -d $D/test.tfrecord -o a.json $D/net.nn"
    assert_refused a.json
    assert_regex "$stderr" 'needs [0-9.]+ GB of memory, 0\.[0-9]+ GB are left; batches of up to [0-9]+ fit$'
}
