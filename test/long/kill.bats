# Twenty kills at random times per stage, and of make: the products are those of a run without interruption.
# For `make check-long`. Where in its work a process dies is up to the clock, so a failure may not come again.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 500 100 --epochs 1
    fashion_pruned
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
    TRAIN="advtrain -q -d $D/train.tfrecord -e $D/test.tfrecord --limit 400 --batch 32 --epochs 4 --eps 0.1 --step 0.05
        --steps 5 --save-every 0.1"
}

# killed_20_times PRODUCTS COMMAND...: run the command until it was killed 20 times, by KILL, TERM or INT in turns, after
# up to a second, with one thread or two; whenever it comes to its end, PRODUCTS (in the directory b) must be those in a, and it begins again.
killed_20_times() {
    local products=$1 kills=0 pid signal status
    shift
    while [ "$kills" -lt 20 ]; do
        signal=$(set -- KILL TERM KILL INT && shift $((kills % 4)) && echo "$1")
        (cd b && exec env --default-signal=INT OMP_NUM_THREADS=$((1 + kills % 2)) "$@" 2>>words) &
        pid=$!
        sleep "0.$(printf %03d $((RANDOM % 1000)))"
        kill -s "$signal" $pid 2>/dev/null || true
        status=0
        wait $pid || status=$?
        case $status in
        0) same $products && rm -r b && mkdir b ;;
        75 | 130 | 137 | 143) kills=$((kills + 1)) ;;
        *) cat b/words; fail "status $status" ;;
        esac
    done
    (cd b && "$@")
    same $products
}

same() { # same PRODUCT...
    local f
    for f; do
        cmp "a/$f" "b/$f"
    done
    assert_equal "$(find b -name '*.state' -o -name '.*.partial')" ""
}

@test "kill: pretrain, prune and finetune, 20 times each" {
    local o
    for o in "--arch resS --augment crop-flip" "--stage prune $D/planned.nn" "--stage finetune $D/pruned.nn" \
        "--arch resS --optimizer adam --lr 0.001 --attack-bn batch+update"; do
        rm -rf a b
        mkdir a b
        (cd a && $TRAIN --log x.jsonl -o x.nn $o)
        killed_20_times "x.nn x.jsonl" $TRAIN --log x.jsonl -o x.nn $o
    done
}

@test "kill: adveval, 20 times" {
    local command="adveval -q -d $D/test.tfrecord --eps 0.1 --step 0.05 --attacks clean,fgsm,pgd20,cw --restarts 20
        --batch 10 --save-every 0.1 -o x.json $D/net.nn"
    mkdir a b
    (cd a && $command)
    killed_20_times x.json $command
}

# prepare_search: SEARCH, whose evaluator, adveval, writes its process number to `evaluator`, and its PRODUCTS.
prepare_search() {
    nninfo --format json -o layers.json $D/net.nn
    cat >serve <<END
#!/bin/sh
echo \$\$ >evaluator
exec adveval --serve -q -r weight -d $D/test.tfrecord --batch 50 --eps 0.1 --step 0.05 --steps 3 $D/net.nn
END
    chmod +x serve
    SEARCH="ddpg-search -q -l $PWD/layers.json -t 0.3 --hidden 32 --batch 32 --warmup 10 --episodes 50 --save-every 0.1
        -e $PWD/serve --csv-dir . -o s.json"
    PRODUCTS="s.json Episode_wise_Rewards.csv Best_Rewards.csv"
}

@test "kill: ddpg-search, 20 times" {
    prepare_search
    mkdir a b
    (cd a && $SEARCH)
    killed_20_times "$PRODUCTS" $SEARCH
}

@test "kill: the evaluator of ddpg-search, 20 times" {
    prepare_search
    mkdir a b
    (cd a && $SEARCH)
    local kills=0 given_up=0 pid evaluator status
    while [ "$kills" -lt 20 ]; do
        (cd b && exec $SEARCH 2>>words) &
        pid=$!
        while sleep "0.$(printf %03d $((RANDOM % 1000)))" && kill -0 $pid 2>/dev/null; do
            evaluator=$(cat b/evaluator 2>/dev/null || true)
            if [ "$(cat "/proc/$evaluator/comm" 2>/dev/null)" = adveval ] && kill -KILL "$evaluator"; then
                kills=$((kills + 1))
            fi
        done
        status=0
        wait $pid || status=$?
        case $status in
        0) same $PRODUCTS && rm -r b && mkdir b ;;
        1) # it was killed, and so was the one that took its place
            tail -n 1 b/words | grep -Eq "evaluator .* (by signal 9 |with status 137 |did not end with status 0)" || { cat b/words; false; }
            given_up=$((given_up + 1))
            ;;
        *) cat b/words; fail "status $status" ;;
        esac
    done
    [ "$given_up" -gt 0 ]
    (cd b && $SEARCH)
    same $PRODUCTS
}

@test "kill: make, alone or with everything below it, 20 times" {
    local kills=0 pid group status
    demo() { # demo DIR
        exec make -C "$ROOT" --no-print-directory demo-stages DEMO_SIZE=tiny BUILD="$(dirname "$BIN")" TOOLS_READY=1 \
            PDFLATEX= RUNS="$PWD/$1" DATA="$D/data"
    }
    (demo a) >log 2>&1 || { cat log; false; }
    while [ "$kills" -lt 20 ]; do
        group=$((kills % 2))
        (export -f demo; export D; exec setsid bash -c 'demo b') >>log 2>&1 &
        pid=$!
        sleep "$((1 + RANDOM % 3)).$((RANDOM % 10))"
        if [ "$group" = 1 ]; then kill -KILL -- -$pid || true; else kill -KILL $pid || true; fi
        status=0
        wait $pid || status=$?
        case $status in
        0) same_demo && rm -r b ;;
        137) kills=$((kills + 1)) ;;
        *) tail -n 50 log; fail "status $status" ;;
        esac
    done
    (demo b) >>log 2>&1 || { tail -n 50 log; false; }
    same_demo
}

same_demo() {
    local f
    (cd a && find . -name '*.nn' -o -name '*.json' -o -name '*.csv' -o -name '*.jsonl') >products
    [ "$(wc -l <products)" -gt 30 ]
    while read -r f; do
        cmp "a/$f" "b/$f"
    done <products
}
