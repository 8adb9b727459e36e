# test/cli/ddpg-search-resume.bats -- stopped anywhere, the same command goes on and ends with the same bytes.
# The evaluator does the killing: it knows which episode it is in.

setup_file() {
    export TOY=$BATS_TEST_DIRNAME/toy_evaluator.py
    load ../helpers
    need_python json
    mkdir "$BATS_FILE_TMPDIR/whole"
    cd "$BATS_FILE_TMPDIR/whole" || return 1
    "$PYTHON" "$TOY" table >layers.json
    search ""
}

setup() {
    load ../helpers
    load ../interrupt
    need_python json
    cp "$BATS_FILE_TMPDIR/whole/layers.json" .
}

# With EXEC=exec the process in the background is the search itself.
# search FAULT [OPTION]...: 12 episodes, two of every kind: warm-up, training begins, the actor's, around the best. It
# learns so fast that what the agent holds shows in the strategies at once.
search() {
    local fault=$1
    shift
    $EXEC ddpg-search -l layers.json --target 0.3 --hidden 16 --batch 16 --memory 50 --warmup 5 --episodes 7 \
        --train-iters 5 --actor-lr 0.05 --critic-lr 0.05 -e "exec $PYTHON $TOY serve $fault" --csv-dir . -o s.json "$@"
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

assert_whole() {
    local f
    for f in s.json Episode_wise_Rewards.csv Best_Rewards.csv rewards.svg; do
        cmp "$f" "$BATS_FILE_TMPDIR/whole/$f"
        assert_not_exists ".$f.partial"
    done
    assert_not_exists s.json.state
    assert_not_exists .s.json.state.partial
}

# until_done FAULT STATUS... -- [OPTION]...: the same command again and again ends with these statuses.
until_done() {
    local fault=$1 want
    shift
    while [ "$1" != -- ]; do
        want=$1
        shift
        local options=("$@")
        while [ "${options[0]}" != -- ]; do
            options=("${options[@]:1}")
        done
        run --separate-stderr search "$fault" "${options[@]:1}"
        assert_equal "$status" "$want"
        if [ "$want" != 0 ]; then
            assert_not_exists s.json
            assert_not_exists Best_Rewards.csv
        fi
    done
    assert_whole
}

@test "ddpg-search: SIGTERM and SIGINT save the state and end with status 75; the same command goes on, with the same bytes" {
    run --separate-stderr search term:3
    assert_equal "$status" 75
    assert_equal "$output" ""
    assert_equal "$stderr" \
        "ddpg-search: interrupted in episode 3; the state is in s.json.state: run the same command again to go on"
    run --separate-stderr search term:3
    assert_equal "$status" 75
    assert_equal "${stderr_lines[0]}" "ddpg-search: going on after episode 2"
    assert_regex "${stderr_lines[1]}" "interrupted in episode 5;"
    until_done int:4 75 75 0 --
}

@test "ddpg-search: interrupted while the evaluator starts, the same command begins" {
    EXEC="exec" search mute -q 2>err &
    local search=$!
    until_true test -e .s.json.partial
    kill -INT "$search"
    status=0
    wait "$search" || status=$?
    assert_equal "$status" 75
    assert_equal "$(cat err)" \
        "ddpg-search: interrupted before the evaluator was ready; run the same command again"
    assert_not_exists .s.json.partial
    until_done "" 0 --
}

@test "ddpg-search: interrupted while it waits for the layer table, it leaves at once and the state stays" {
    run search term:6
    assert_equal "$status" 75
    cp s.json.state kept
    mkfifo slow
    local signal
    for signal in INT TERM; do
        EXEC="exec env --default-signal=INT" search "" -l slow 2>err &
        local search=$!
        waiting ddpg-search "$search"
        leaves $signal "$search"
        assert_equal "$status" "$((128 + $(kill -l $signal)))"
        cmp s.json.state kept
    done
    until_done "" 0 --
}

@test "ddpg-search: kill -9, before or after the first save, costs no more than what was not saved" {
    until_done slay:5 137 137 0 -- --save-every 0 # 4 new episodes each time
    rm s.json ./*.csv
    run search slay:5
    assert_equal "$status" 137
    assert_not_exists s.json.state
    until_done "" 0 --
}

@test "ddpg-search: networks that answer every image alike are counted over all runs" {
    HERACLES_CRASH=write:8 run search constant -q --save-every 0
    assert_equal "$status" 137
    run --separate-stderr search constant -q
    assert_success
    assert_regex "$stderr" "12 strategies made the network answer every image alike"
}

@test "ddpg-search: a crash in or beside any write leaves a search that goes on, with the same bytes" {
    local point n
    for point in write rename renamed; do
        for n in 1 5; do # the state of an early and of a later episode
            HERACLES_CRASH=$point:$n run search "" -q --save-every 0
            assert_equal "$status" 137
            assert_not_exists s.json
            until_done "" 0 -- -q
            rm s.json ./*.csv
        done
        for n in 1 2 3 4 5; do # the last state, the tables, the curve, the strategy
            HERACLES_CRASH=$point:$n run search "" -q
            assert_equal "$status" 137
            # Once the last state is there no episode is played again: the evaluator would die of the first.
            if [ "$point$n" = write1 ] || [ "$point$n" = rename1 ]; then
                assert_not_exists s.json.state
                search "" -q
            else
                assert_exists s.json.state
                search die:1 -q
            fi
            assert_whole
            rm s.json ./*.csv
        done
    done
}

@test "ddpg-search: when the evaluator dies for good the state is saved; the same command goes on" {
    until_done kill:4 1 0 -- # two evaluators, 3 episodes each
    rm s.json ./*.csv
    until_done die:3 1 1 0 --
    rm s.json ./*.csv
    until_done error:3 1 1 1 1 1 0 --
    rm s.json ./*.csv
    run --separate-stderr search die:3 -q
    assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
    assert_regex "$stderr" "ended with status 3 after it had been started again"
}

@test "ddpg-search: the tables are whole although they were only asked for later" {
    run ddpg-search -q -l layers.json --target 0.3 --hidden 16 --batch 16 --memory 50 --warmup 5 --episodes 7 \
        --train-iters 5 --actor-lr 0.05 --critic-lr 0.05 -e "exec $PYTHON $TOY serve term:6" -o s.json
    assert_equal "$status" 75
    until_done "" 0 --
}

@test "ddpg-search: state of another search is refused by name and kept; --restart discards it" {
    run search term:6
    cp s.json.state kept
    sed 's/"stride": 1/"stride": 2/' layers.json >strided.json
    local want="ddpg-search: s.json.state: belongs to another run: "
    local args=("--tau 0.02|--tau was 0.01, now 0.02" "--episodes 8|--episodes was 7, now 8"
        '--reference|--action was "log", now "linear"' "--seed 7|--seed was 1234, now 7" "-l strided.json|input 'layers' has changed"
        "--csv-dir . -e 'exec $PYTHON $TOY serve digest:beef'|input 'evaluator' has changed") a
    for a in "${args[@]}"; do
        eval "run --separate-stderr search '' ${a%%|*}"
        assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
        assert_equal "$stderr" "$want${a#*|}; --restart discards it"
        cmp s.json.state kept
    done
    # another command line for the same search is no other search
    run search term:3 --evaluator-timeout 7 --save-every 3
    assert_equal "$status" 75
    run --separate-stderr search term:3 --tau 0.02 --restart
    assert_equal "$status" 75
    assert_regex "$stderr" "in episode 3;.* run the same command again, without --restart, to go on$"
    search "" -q --restart
    assert_whole
}

@test "ddpg-search: a damaged state is refused in one line, and --restart begins anew" {
    run search term:6
    cp s.json.state kept
    local size at
    size=$(stat -c %s kept)
    for at in 0 9 17 60 $((size / 3)) $((size / 2)) $((size - 1)); do
        "$PYTHON" -c 'import sys
d = bytearray(open("kept", "rb").read()); d[int(sys.argv[1])] ^= 16; open("s.json.state", "wb").write(d)' "$at"
        run --separate-stderr search "" -q
        assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
        assert_regex "$stderr" "^ddpg-search: s.json.state: .*; --restart discards it$"
        head -c "$at" kept >s.json.state
        run --separate-stderr search "" -q
        assert_refused s.json Episode_wise_Rewards.csv Best_Rewards.csv
        assert_regex "$stderr" "^ddpg-search: s.json.state: .*; --restart discards it$"
    done
    until_done "" 0 -- --restart
}

@test "ddpg-search: a second search for the same output is refused, the first is not disturbed" {
    EXEC="exec" search late:3 --save-every 0 2>first &
    local search=$!
    until_true test -e s.json.state
    run --separate-stderr search "" --restart --csv-dir elsewhere
    assert_equal "$status" 1
    assert_equal "$stderr" "ddpg-search: s.json: another process is writing it now"
    run --separate-stderr search "" -o other.json # its tables are the first one's
    assert_refused other.json
    assert_regex "$stderr" "Episode_wise_Rewards.csv: another process is writing it now"
    kill "$search"
    status=0
    wait "$search" || status=$?
    assert_equal "$status" 75
    assert_regex "$(cat first)" "interrupted in episode 3;"
    until_done "" 0 --
}

@test "ddpg-search: without a file to write there is no state; a signal still stops search and evaluator" {
    run --separate-stderr ddpg-search -l layers.json -t 0.3 --warmup 5 -e "echo \$\$ >pid; exec $PYTHON $TOY serve term:3"
    assert_equal "$status" 75
    assert_equal "$output" ""
    assert_equal "$stderr" "ddpg-search: interrupted in episode 3"
    run ps -o stat= -p "$(cat pid)"
    assert_output ""
}
