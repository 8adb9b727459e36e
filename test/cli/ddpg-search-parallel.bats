# test/cli/ddpg-search-parallel.bats -- several evaluators at once find what one finds, byte for byte.

setup_file() {
    export TOY=$BATS_TEST_DIRNAME/toy_evaluator.py
    load ../helpers
    need_python json
    mkdir "$BATS_FILE_TMPDIR/one"
    cd "$BATS_FILE_TMPDIR/one" || return 1
    "$PYTHON" "$TOY" table >layers.json
    search "" -q
}

setup() {
    load ../helpers
    need_python json
    cp "$BATS_FILE_TMPDIR/one/layers.json" .
    ONE=$BATS_FILE_TMPDIR/one
}

# search FAULT [OPTION]...: 9 episodes that do not wait for each other, 6 that do.
search() {
    local fault=$1
    shift
    ddpg-search -l layers.json --target 0.3 --hidden 16 --batch 16 --memory 60 --warmup 10 --episodes 5 \
        --train-iters 5 --actor-lr 0.05 --critic-lr 0.05 -e "exec $PYTHON $TOY serve $fault" --csv-dir . -o s.json "$@"
}

assert_as_one() {
    local f
    for f in s.json Episode_wise_Rewards.csv Best_Rewards.csv rewards.svg; do
        cmp "$f" "$ONE/$f"
        rm "$f"
    done
    assert_not_exists s.json.state
}

@test "ddpg-search: same strategy and tables with 1, 2, 4 and 7 evaluators, whichever is slower" {
    local n
    for n in 2 4 7; do
        search "" -q --evaluators $n
        assert_as_one
    done
    # the first of them answers last
    cat >commands <<E2
# a slow one and two quick ones

exec $PYTHON $TOY serve slow:150
exec $PYTHON $TOY serve
  exec $PYTHON $TOY serve
E2
    ddpg-search -q -l layers.json --target 0.3 --hidden 16 --batch 16 --memory 60 --warmup 10 --episodes 5 \
        --train-iters 5 --actor-lr 0.05 --critic-lr 0.05 --evaluator-file commands --csv-dir . -o s.json
    assert_as_one
}

@test "ddpg-search: --early-stop, too, is the same for any number of evaluators" {
    search "" -q --early-stop --warmup 3 --episodes 12 -o early.json --csv-dir early
    local n
    for n in 2 3; do
        search "" -q --early-stop --warmup 3 --episodes 12 -j $n
        cmp s.json early.json
        cmp Episode_wise_Rewards.csv early/Episode_wise_Rewards.csv
    done
    search "" -q --warmup 3 --episodes 12
    run cmp -s Episode_wise_Rewards.csv early/Episode_wise_Rewards.csv
    assert_failure
}

@test "ddpg-search: with four evaluators four requests are under way at once" {
    # nobody answers before four have been asked: with fewer at once this would end with status 5
    search meet:4,there -q -j 4
    assert_as_one
    assert_equal "$(find there -type f | wc -l)" 4
}

@test "ddpg-search: one of several evaluators that dies is started again, and nothing changes" {
    run --separate-stderr search once:flag -j 3
    assert_success
    # on its fifth request, of which all three may be in the midst
    assert_regex "$stderr" "evaluators? died and (was|were) started again"
    assert_as_one
}

@test "ddpg-search: stopped and killed with any number of evaluators, it goes on with any other" {
    local n fault status=1
    for fault in term:2 kill:2 slay:3 slay:2 term:3; do
        for n in 4 2 1 3; do
            status=0
            search $fault -q -j $n --save-every 0 2>err || status=$?
            assert_regex "$status" '^(0|1|75|137)$'
            if [ $status = 0 ]; then break; fi
            assert_not_exists s.json
        done
        if [ $status != 0 ]; then search "" -q -j 2; fi
        assert_as_one
    done
}

@test "ddpg-search: when one of several evaluators dies for good, state is saved and all end" {
    cat >commands <<E2
exec $PYTHON $TOY serve pids:pids
exec $PYTHON $TOY serve pids:pids
exec $PYTHON $TOY serve die:3
E2
    local options="-l layers.json --target 0.3 --hidden 16 --batch 16 --memory 60 --warmup 10 --episodes 5
        --train-iters 5 --actor-lr 0.05 --critic-lr 0.05 --csv-dir . -o s.json -q"
    # shellcheck disable=SC2086
    run --separate-stderr ddpg-search $options --evaluator-file commands
    assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
    assert_regex "$stderr" "die:3' ended with status 3 after it had been started again"
    assert_exists s.json.state
    local pid
    while read -r pid; do
        run ps -o stat= -p "$pid"
        assert_regex "${output:-gone}" '^(gone|Z)'
    done <pids
    search "" -q
    assert_as_one
}

@test "ddpg-search: parts that are each constant, with different classes, are no constant predictor" {
    local n
    for n in 1 3; do
        run --separate-stderr search twofaced -q -j $n
        assert_success
        assert_equal "$stderr" ""
        assert_as_one
    done
    run --separate-stderr search constant -q -j 3
    assert_success
    assert_regex "$stderr" "15 strategies made the network answer every image alike"
}

@test "ddpg-search: evaluators that differ, and files that hold no commands, are refused" {
    local plain="-q -l layers.json -t 0.3 --csv-dir . -o s.json"
    cat >commands <<E2
exec $PYTHON $TOY serve
exec $PYTHON $TOY serve digest:beef
E2
    # shellcheck disable=SC2086
    run --separate-stderr ddpg-search $plain --evaluator-file commands
    assert_refused s.json
    assert_regex "$stderr" "digest:beef' answers for 10000 images with digest beef, the first one, .* with 5eed: they must be alike"
    printf '\n# nothing\n' >none
    printf 'true\0false\n' >binary
    local file
    for file in none binary missing .; do
        # shellcheck disable=SC2086
        run --separate-stderr ddpg-search $plain --evaluator-file $file
        assert_refused s.json
        assert_regex "$stderr" "^ddpg-search: $file: "
    done
    yes true | head -n 100 >many
    # shellcheck disable=SC2086
    run --separate-stderr ddpg-search $plain --evaluator-file many -j 3
    assert_refused s.json
    assert_regex "$stderr" "many: 100 commands with --evaluators 3 are more than 256 processes"
    # shellcheck disable=SC2086
    run --separate-stderr ddpg-search $plain --evaluator-file many -e true
    assert_equal "$status" 2
}
