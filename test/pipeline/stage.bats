# pipelines/stage and pipelines/status: what a stage keeps, what a signal does to it, and when a state is discarded.
setup() {
    load ../helpers
    STAGE=$ROOT/pipelines/stage
    STATUS=$ROOT/pipelines/status
    # tool WORD...: says its words and makes out; or, told to wait, waits for TERM and leaves as our tools do
    cat >tool <<'T'
#!/bin/bash
trap 'echo "last words" >&2; touch out.state; exit 75' TERM
echo "words: $*" >&2
if [ "$*" = wait ]; then
    echo $$ >waiting
    until [ -e go ]; do sleep 0.02; done
fi
[ "$*" != fail ] || exit 3
rm -f out.state
echo made >>out
T
    chmod +x tool
    PATH=$PWD:$PATH
    export INPUTS=input
    touch input
}

wait_for() { # wait_for FILE PID
    until [ -s "$1" ]; do
        kill -0 "$2" || fail "ended before $1 was there"
        sleep 0.02
    done
}

@test "stage: the words of a command are shown and kept, with the command and its status" {
    run --separate-stderr "$STAGE" out tool a 'b c'
    assert_success
    assert_equal "$(sed 's/[0-9.]* s$/N s/' <<<"$stderr")" ">> out
   words: a b c
   N s"
    assert_equal "$(sed 's/[0-9.]* s$/N s/' out.log)" '$ tool a '\''b c'\''
words: a b c
status 0 after N s'
    run -3 "$STAGE" out tool fail
    assert_output --partial "stage failed with status 3; its words are in out.log"
    assert_equal "$("$STATUS" out)" failed
}

@test "stage: Ctrl-C, TERM and HUP reach the command, which has its last words" {
    local signal pid status
    for signal in INT TERM HUP; do
        rm -f waiting
        env --default-signal=INT "$STAGE" out tool wait 2>err &
        pid=$!
        wait_for waiting $pid
        assert_equal "$("$STATUS" out)" running
        kill -s $signal $pid
        status=0
        wait $pid || status=$?
        assert_equal "$signal $status" "$signal 75"
        assert_file_contains err "last words"
        assert_file_contains err "interrupted: the next make goes on"
        assert_file_contains out.log "^status 75 after"
        assert_equal "$("$STATUS" out)" interrupted
    done
    touch go
    run "$STAGE" out tool wait
    assert_success
    # the log of a stage that goes on tells the whole story
    assert_equal "$(grep -c '^status' out.log)" 4
    assert_equal "$("$STATUS" out)" stale
}

# record FILE: what it says, without sizes and times
record() { sed -E '3,$s/^[0-9]+ [0-9]+\.[0-9]{9} //' "$1"; }
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }

@test "stage: OUT.args tells the command and the digests of its inputs, when the command is done and not before" {
    echo one >input
    echo two >more
    INPUTS="input more" ARGS="as make says it" "$STAGE" out tool a
    assert_equal "$(record out.args)" "as make says it
instead of none
$(sum input) input
$(sum more) more"
    assert_equal "$(cut -d ' ' -f 1,2 out.args | sed -n 3,4p)" "$(stat -c '%s %.9Y' input more)"
    echo three >input
    run -3 "$STAGE" out tool fail
    assert_not_exists out.args # whatever the command did to out, it is not what it was
    assert_equal "$(record out.begun)" "tool fail
instead of $(sum out)
$(sum input) input"
}

@test "stage: an input that changes while the command works is remembered as it was" {
    "$STAGE" out tool wait 2>err &
    local pid=$! before
    wait_for waiting $pid
    before=$(sum input)
    echo other >input
    touch go
    wait $pid
    assert_file_contains out.args "$before input"
    assert_equal "$("$ROOT/pipelines/stale" out: input)" out # so the next make runs it again
}

@test "stage: what was made by this command from these inputs is not made again, whatever the times are" {
    "$STAGE" out tool a
    cp out.log before.log
    touch -d '1 hour' input
    run "$STAGE" out tool a
    assert_success
    assert_line "   was made from the same inputs before: nothing to do"
    cmp out.log before.log
    echo more >>input
    touch -d '1 year ago' input
    "$STAGE" out tool a
    "$STAGE" out tool b
    INPUTS="input tool" "$STAGE" out tool b
    assert_equal "$(wc -l <out)" 4
}

interrupted() { # a new `tool wait` leaves out.state
    rm -f out go waiting
    "$STAGE" out tool wait 2>err &
    wait_for waiting $!
    kill -TERM $!
    wait $! || assert_equal $? 75
    touch go
}

@test "stage: a state that another command or other inputs led to is removed, and the log begins anew; no other is" {
    interrupted
    touch -d '1 hour' input
    "$STAGE" out tool wait 2>err
    run ! grep anew err
    assert_equal "$(grep -c '^words: wait$' out.log)" 2

    interrupted
    "$STAGE" out tool b 2>err
    assert_file_contains err "beginning anew: out.state belongs to another command or other inputs"
    assert_equal "$(grep '^words' out.log)" "words: b"

    interrupted
    echo more >>input
    "$STAGE" out tool wait 2>err
    assert_file_contains err "beginning anew: out.state belongs to another command or other inputs"
    assert_equal "$(grep '^words' out.log)" "words: wait"
}

@test "stage: a product whose command was killed with everything else just behind it is not made again" {
    "$STAGE" out tool a
    cp out.args args
    mv out.args out.begun # the last thing that stage does, not done
    run "$STAGE" out tool a
    assert_line "   was made from the same inputs before: nothing to do"
    cmp out.args args
    assert_not_exists out.begun
    # with a state the command must have the last word
    mv out.args out.begun
    touch out.state
    run "$STAGE" out tool a
    assert_line "   words: a"
    assert_not_exists out.state
}

@test "stage: an old product that was touched behind a failure is not taken for the new one" {
    "$STAGE" out tool a
    run -3 "$STAGE" out tool fail
    touch -d '1 hour' out
    run -3 "$STAGE" out tool fail
    "$STAGE" out tool a
    assert_equal "$(wc -l <out)" 2
}

@test "stage: what was killed together with its shell counts as interrupted" {
    "$STAGE" out tool wait 2>err &
    local pid=$!
    wait_for waiting $pid
    kill -KILL $pid
    wait $pid || true
    # the command lives on, and the lock with it
    assert_equal "$("$STATUS" out)" running
    kill -KILL "$(<waiting)"
    until [ "$("$STATUS" out)" = interrupted ]; do sleep 0.02; done
}

@test "stage: a second make waits for the first, and does not make the same thing again" {
    "$STAGE" out tool wait 2>err &
    local first=$! second
    wait_for waiting $first
    "$STAGE" out tool wait 2>err2 &
    second=$!
    until grep -q "waiting for it" err2; do sleep 0.02; done
    touch go
    wait $first
    wait $second
    assert_file_contains err2 "nothing to do"
    assert_equal "$(grep -c '^words' out.log)" 1
    assert_equal "$(<out)" made
}

@test "status: what was never made, and what was removed, is missing" {
    assert_equal "$("$STATUS" out)" missing
    "$STAGE" out tool a
    assert_equal "$("$STATUS" out)" stale # make asks only for what is not up to date
    rm out
    assert_equal "$("$STATUS" out)" missing
}
