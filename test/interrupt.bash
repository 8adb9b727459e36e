# test/interrupt.bash -- kill a command, run it again: `load ../interrupt` in setup().

# killed POINT:N COMMAND...: the command kills itself (SIGKILL) at the crash point, and does not end before it.
killed() {
    local at=$1
    shift
    run env HERACLES_CRASH="$at" "$@"
    [ "$status" -eq 137 ] || fail "not killed at $at: status $status: $*: $output"
}

# signalled SIGNAL FILE COMMAND...: send it once the command has written FILE; fails unless the command leaves with
# status 75 and one line (in $stderr) that says how to go on. Shells start background jobs with SIGINT ignored.
signalled() {
    local signal=$1 file=$2 pid
    shift 2
    touch started
    env --default-signal=INT "$@" 2>stderr &
    pid=$!
    until [ "$file" -nt started ]; do
        kill -0 "$pid" || fail "ended before it wrote $file: $(cat stderr)"
        sleep 0.02
    done
    kill -s "$signal" "$pid"
    status=0
    wait "$pid" || status=$?
    stderr=$(<stderr)
    assert_equal "$status: $(wc -l <stderr) $stderr" "75: 1 $stderr"
    [[ "$stderr" == *": interrupted in "*"run the same command again"* ]] || fail "$stderr"
}

# waiting NAME PID: wait until the process has become NAME and sleeps.
waiting() {
    until [ "$(cat "/proc/$2/comm")" = "$1" ] && grep -q '^State:.S' "/proc/$2/status"; do
        kill -0 "$2" || fail "$1 ended"
        sleep 0.02
    done
}

# leaves SIGNAL PID: send it; the process ends within 20 s, how is in $status.
leaves() {
    local n
    kill -s "$1" "$2"
    for n in $(seq 400); do
        if ! grep -q '^State:.[^Z]' "/proc/$2/status" 2>/dev/null; then
            status=0
            wait "$2" || status=$?
            return
        fi
        sleep 0.05
    done
    kill -KILL "$2"
    fail "SIG$1 did not end it"
}
