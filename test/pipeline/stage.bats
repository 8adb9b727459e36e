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
    while :; do sleep 0.02; done
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
    assert_equal "$(sed 's/[0-9.]* s$/N s/' out.log)" '$ tool a b\ c
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
    run "$STAGE" out tool more
    assert_success
    # the log of a stage that goes on tells the whole story
    assert_equal "$(grep -c '^status' out.log)" 4
    assert_equal "$("$STATUS" out)" stale
}

@test "stage: a state older than an input is discarded with --restart, and the log begins anew; no other is" {
    touch -d '2 seconds ago' input
    echo before >out.log
    touch -d '1 second ago' out.state
    "$STAGE" out tool a
    assert_file_contains out.log "^before"
    assert_file_contains out.log "^words: a$"
    touch -d '1 second ago' out.state
    touch input
    "$STAGE" out tool a
    run ! grep before out.log
    assert_file_contains out.log "^words: --restart a$"
    "$STAGE" out tool a
    assert_file_contains out.log "^words: a$"
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
    touch out # as the first would have made it
    kill -TERM $first
    wait $first || assert_equal $? 75
    wait $second
    assert_file_contains err2 "was made by another make"
    assert_equal "$(grep -c '^words' out.log)" 1
}

@test "status: what was never made, and what was removed, is missing" {
    assert_equal "$("$STATUS" out)" missing
    "$STAGE" out tool a
    assert_equal "$("$STATUS" out)" stale # make asks only for what is not up to date
    rm out
    assert_equal "$("$STATUS" out)" missing
}
