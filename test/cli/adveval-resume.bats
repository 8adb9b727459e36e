# adveval: interrupted anywhere, the same command goes on and the record is that of a run without interruption.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 300 90 --epochs 1
}

setup() {
    load ../helpers
    load ../interrupt
    D=$BATS_FILE_TMPDIR
    # measure NAME OPTION...: to NAME.json. clean in 3 batches, fgsm and pgd3 in 2, cw2 in 2 with 2 restarts each;
    # all that can be saved is: 9 times
    printf '#!/bin/sh\nname=$1\nshift\nexec %s -o "$name.json" "$@"\n' "adveval -q --threads 1 -d $D/test.tfrecord \
        --limit 50 --eps 0.1 --step 0.05 --attacks clean,fgsm,pgd3,cw2 --restarts 2 --batch 30 --save-every 0" >measure
    chmod +x measure
    PATH=$PWD:$PATH
}

assert_same_run() { # assert_same_run a b
    cmp "$1.json" "$2.json"
    assert_equal "$(find . -name "*$2.*")" "./$2.json"
}

@test "adveval: killed in attacks, in writing the state and the record: the same bytes in the end" {
    measure a "$D/net.nn"
    local at threads=1
    for at in write:1 attack:1 rename:2 attack:2 renamed:1 attack:3 write:2 attack:4 renamed:2; do
        killed "$at" measure b "$D/net.nn" --threads $((threads = 3 - threads))
        assert_not_exists b.json
    done
    measure b "$D/net.nn"
    assert_same_run a b
    for at in write rename renamed; do
        killed "$at:10" measure c "$D/net.nn"
        HERACLES_CRASH=attack:1 measure c "$D/net.nn" # finished: no attack any more
        assert_same_run a c
        rm c.json
    done
}

@test "adveval: statistics of the batch go on with the same batches only" {
    measure a --bn batch "$D/net.nn"
    killed write:3 measure b --bn batch "$D/net.nn"
    run --separate-stderr measure b --bn batch --batch 20 "$D/net.nn"
    assert_refused b.json
    assert_regex "$stderr" "^adveval: b.json.state: belongs to another run: --batch was 30, now 20; --restart"
    killed write:3 measure b --bn batch "$D/net.nn"
    measure b --bn batch "$D/net.nn"
    assert_same_run a b
    # images stand for themselves with folded batch norm
    measure a "$D/net.nn"
    killed write:3 measure b "$D/net.nn"
    measure b --batch 7 --threads 2 --save-every 100 "$D/net.nn"
    assert_same_run a b
}

@test "adveval: a signal is status 75 and a line that says how to go on; also within one long attack" {
    local o="--restarts 200 --attacks clean,pgd3 --batch 4" signal
    measure a $o "$D/net.nn"
    for signal in INT TERM INT; do
        signalled $signal b.json.state measure b $o "$D/net.nn"
        assert_not_exists b.json
        assert_not_exists .b.json.partial
    done
    measure b $o "$D/net.nn"
    assert_same_run a b
    signalled TERM c.json.state measure c --attacks clean,pgd100000 "$D/net.nn"
    assert_regex "$stderr" "interrupted in (clean|pgd100000), image (0|30|60) of (50|90)"
}

@test "adveval: attacks that are finished are not done again, and stderr says where it goes on" {
    killed attack:6 measure b "$D/net.nn"
    run --separate-stderr adveval --threads 1 -d "$D/test.tfrecord" --limit 50 --eps 0.1 --step 0.05 \
        --attacks clean,fgsm,pgd3,cw2 --restarts 2 -o b.json "$D/net.nn"
    assert_success
    assert_regex "$stderr" "b.json.state: going on in (fgsm|pgd3) behind image"
    refute_regex "$stderr" "(clean|fgsm) accuracy"
    assert_regex "$stderr" "cw2 accuracy"
}

@test "adveval: the state of another run is refused by name, a damaged one in one line; --restart discards both" {
    measure a "$D/net.nn"
    killed write:3 measure b "$D/net.nn"
    local o
    for o in "--eps 0.2|--eps was 0.1, now 0.2" "--attacks clean|--attacks was \"clean,fgsm,pgd3,cw2\", now \"clean\"" \
        "--label x|--label was null, now \"x\"" "-d $D/train.tfrecord|input 'data' has changed"; do
        run --separate-stderr measure b ${o%|*} "$D/net.nn"
        assert_refused b.json
        assert_equal "$stderr" "adveval: b.json.state: belongs to another run: ${o#*|}; --restart discards it"
    done
    truncate -s -1 b.json.state
    run --separate-stderr measure b "$D/net.nn"
    assert_refused b.json
    assert_regex "$stderr" "^adveval: b.json.state: .*; --restart discards it"
    measure b --restart "$D/net.nn"
    assert_same_run a b
}

@test "adveval: no state beside stdout, and none of a service" {
    measure a "$D/net.nn"
    run measure - "$D/net.nn" -o -
    assert_output "$(cat a.json)"
    assert_equal "$(find . -name '*.state')" ""
    run -2 adveval --serve -r weight -d "$D/test.tfrecord" --restart "$D/net.nn"
}

@test "adveval: a cascade that is killed in any of its rounds goes on with the same images" {
    local o="--attacks clean,aa --iterations 6 --queries 9 --targets 2 --restarts 1 --eps 0.01" at threads=1
    measure a $o "$D/net.nn"
    for at in write:3 attack:1 attack:9 rename:2 attack:5 write:2; do
        killed "$at" measure b $o "$D/net.nn" --threads $((threads = 3 - threads)) --batch $((threads * 20))
        assert_not_exists b.json
    done
    run --separate-stderr adveval --threads 1 -d "$D/test.tfrecord" --limit 50 --eps 0.01 --step 0.05 --restarts 1 \
        --attacks clean,aa --iterations 6 --queries 9 --targets 3 -o b.json "$D/net.nn"
    assert_refused b.json
    assert_regex "$stderr" "--targets was 2, now 3"
    measure b $o "$D/net.nn"
    assert_same_run a b
}

@test "adveval: a killed run writes the same points and outcomes beside its record" {
    local o="--attacks clean,pgd3,aa --iterations 4 --queries 5 --targets 2 --restarts 1 --eps 0.01" at
    measure a $o --save-adv a.tfrecord --outcomes a.tsv "$D/net.nn"
    for at in write:4 attack:6 write:5 rename:3; do
        killed "$at" measure b $o --save-adv b.tfrecord --outcomes b.tsv "$D/net.nn"
        assert_not_exists b.tsv
        assert_not_exists b.tfrecord
    done
    run --separate-stderr measure b $o --outcomes b.tsv "$D/net.nn"
    assert_refused b.json b.tsv
    measure b $o --save-adv b.tfrecord --outcomes b.tsv "$D/net.nn"
    cmp a.json b.json
    cmp a.tsv b.tsv
    cmp a.tfrecord b.tfrecord
}

@test "adveval --checkpoints: killed in or between two networks, it goes on there" {
    maskapply -q -s uniform:0.3 -r weight -o pruned.nn "$D/net.nn"
    set -- --checkpoints "$D/net.nn" pruned.nn "$D/net.nn"
    measure a "$@"
    assert_equal "$(wc -l <a.json)" 3
    local at threads=1
    # a network alone is saved 9 times, and once more behind it
    for at in write:2 attack:3 rename:9 write:2 attack:5 renamed:7; do
        killed "$at" measure b "$@" --threads $((threads = 3 - threads))
        assert_not_exists b.json
    done
    run --separate-stderr measure b --checkpoints "$D/net.nn" "$D/net.nn" pruned.nn
    assert_refused b.json
    assert_regex "$stderr" "belongs to another run"
    measure b "$@"
    assert_same_run a b
    killed write:11 measure c "$@"
    run --separate-stderr adveval --threads 1 -d "$D/test.tfrecord" --limit 50 --eps 0.1 --step 0.05 --batch 30 \
        --attacks clean,fgsm,pgd3,cw2 --restarts 2 -o c.json "$@"
    assert_success
    assert_regex "$stderr" "c.json.state: going on with pruned.nn"
    refute_regex "$stderr" "going on in"
    cmp a.json c.json
}
