# test/cli/ddpg-search-errors.bats -- whatever goes wrong: one line, the right status, nothing left behind.

setup_file() {
    export TOY=$BATS_TEST_DIRNAME/toy_evaluator.py
}

setup() {
    load ../helpers
    need_python json
    "$PYTHON" "$TOY" table >layers.json
}

# refused FAULT PATTERN [OPTION]...: the search with this evaluator fails with one line and no output.
refused() {
    local fault=$1 pattern=$2
    shift 2
    run --separate-stderr ddpg-search -q -l layers.json -t 0.3 --hidden 4 --batch 4 --warmup 4 --episodes 4 \
        --train-iters 1 --restart -e "exec $PYTHON $TOY serve $fault" --csv-dir . -o s.json "$@"
    assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
    assert_equal "$output" ""
    assert_regex "$stderr" "^ddpg-search: .*$pattern"
}

# until_true COMMAND...: wait for it, at most 20 s.
until_true() {
    local n
    for n in $(seq 400); do
        if "$@"; then return 0; fi
        sleep 0.05
    done
    fail "never true: $*"
}

@test "ddpg-search: an evaluator that keeps dying ends the search" {
    refused dead "ended with status 4 before its greeting"
    refused die:3 "ended with status 3 after it had been started again"
    refused kill:3 "was killed by signal 9 after it had been started again"
    refused other:flag "greeted differently when it was started again"
    refused "; exit 9" "ended with status [0-9]+ before its greeting" -e "no-such-program 2>/dev/null"
}

lines_in() { # lines_in FILE N
    [ "$(sed -n '$=' "$1" 2>/dev/null)" = "$2" ]
}

@test "ddpg-search: killing the evaluator from outside makes the search fail" {
    ddpg-search -q -l layers.json -t 0.3 --warmup 1000000 -e "exec $PYTHON $TOY serve pids:pids" -o s.json \
        --csv-dir . 2>err &
    local search=$! n
    for n in 1 2; do # it is started again once
        until_true lines_in pids "$n"
        kill -9 "$(sed -n "${n}p" pids)"
    done
    status=0
    wait "$search" || status=$?
    stderr=$(cat err)
    assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
    assert_regex "$stderr" "evaluator .* (killed by signal 9|ended with status [0-9]+) "
}

@test "ddpg-search: nonsense for an answer ends the search" {
    refused text "answered nonsense in its greeting: not JSON: hello there"
    refused nonsense:3 "answered nonsense on request 3"
    refused id:3 "answered nonsense on request 3: another id"
    refused many:3 "answered nonsense on request 3: counts that cannot be"
    refused shrink:3 "request 3: another number of images than before"
    refused error:2 "failed on request 2: the holdout is gone"
}

@test "ddpg-search: late, repeated and unasked answers end the search" {
    refused mute "silent for 0.2 s before its greeting" --evaluator-timeout 0.2
    # long enough for a greeting and one answer, however busy the machine is
    refused late:2 "silent for 5 s on request 2" --evaluator-timeout 5
    refused twice:3 "(said more than one line on request 3|answered nonsense on request 4: another id)"
    refused tail "said more than it was asked: goodbye"
}

@test "ddpg-search: an evaluator of another network is refused by layer" {
    refused names "layer 2 is 'conv2' with 24 weights, in the layer table 'fc2' with 24"
    refused counts "layer 2 is 'fc2' with 25 weights, in the layer table 'fc2' with 24"
    refused reg "prunes by channel, the search by weight"
}

@test "ddpg-search: a silent evaluator and its children are killed" {
    refused "" "silent" --evaluator-timeout 3 -e 'sleep 300 & echo $! >child; sleep 300'
    local child
    child=$(cat child)
    # gone, or a zombie that its new parent has not collected yet
    run ps -o stat= -p "$child"
    assert_regex "${output:-gone}" '^(gone|Z)'
}

@test "ddpg-search: a budget that the bounds cannot meet is refused before the first episode" {
    refused "" "the budget cannot be met: a keep-rate of 0.3 allows 0.3 .* lb 0.5" --lb 0.5 -e 'touch started'
    refused "" "the budget cannot be used up: .* ub 0.2" --ub 0.2 -e 'touch started'
    assert_not_exists started
}

@test "ddpg-search: SIGTERM before the greeting stops the search and the evaluator; nothing is written" {
    ddpg-search -q -l layers.json -t 0.3 -e 'echo $$ >pid; exec sleep 300' -o s.json --csv-dir . 2>err &
    local search=$!
    until_true test -s pid
    kill "$search"
    status=0
    wait "$search" || status=$?
    assert_equal "$status" 75
    assert_equal "$(cat err)" \
        "ddpg-search: interrupted before the evaluator was ready; run the same command again"
    assert_equal "$(echo * .s* .*.partial)" "err layers.json pid .s* .*.partial"
    run ps -o stat= -p "$(cat pid)"
    assert_output ""
}

@test "ddpg-search: a layer table that is missing, cut or wrong is refused" {
    refused "" "missing.json: .*No such file" -l missing.json
    head -c 300 layers.json >cut.json
    refused "" "cut.json: line 1" -l cut.json
    echo '{"a":1}' >other.json
    refused "" "other.json: not a layer table" -l other.json
    local edit
    for edit in 'l.pop("in")' 'l.update({"in": -3})' 'l.update({"in": 1e18})' 'l.update(weights=7)' \
        'l.update(name="fc1")' 'l.update(tie="fc9")' 'l.update(op="pool")' 'l.update(kernel=3)'; do
        "$PYTHON" -c 'import json, sys
d = json.load(open("layers.json"))
exec(sys.argv[1], {"l": d["layers"][2]})
json.dump(d, open("bad.json", "w"))' "$edit"
        refused "" "bad.json: not a layer table: layer 'fc[12]'" -l bad.json
    done
    echo '{"arch":"chain","input":[1,1,1],"classes":10,"layers":[]}' >bad.json
    refused "" "bad.json: not a layer table: \"layers\"" -l bad.json
}

@test "ddpg-search: an output that cannot be written is refused before the search" {
    run --separate-stderr ddpg-search -q -l layers.json -t 0.3 -e 'touch started' -o none/s.json
    assert_refused none/s.json
    assert_not_exists started
}

@test "ddpg-search: misuse is status 2 with a hint" {
    local args
    for args in "" "-l layers.json" "-e true" "-l layers.json -e true --target 2" "-l layers.json -e true --reg x" \
        "-l layers.json -e true --lb 0.5 --ub 0.4" "-l layers.json -e true --reference --action log" \
        "-l layers.json -e true --hidden 1.5" "-l layers.json -e true extra"; do
        # shellcheck disable=SC2086
        run --separate-stderr ddpg-search $args
        assert_equal "$status" 2
        assert_regex "$stderr" "Try 'ddpg-search --help'"
        assert_equal "$output" ""
    done
    run ddpg-search --help
    assert_success
    assert_output --partial "Example: ddpg-search"
}
