# test/hostile.bash -- runs a claim of test/hostile.py: `load ../hostile` in setup().

# hostile CLAIM AT_LEAST [COMMAND]...: the claim holds, and at least so many commands have shown it. COMMAND runs it.
hostile() {
    local claim=$1 least=$2
    shift 2
    run "$@" env BIN="$BIN" TMPDIR="$BATS_TEST_TMPDIR" python3 "$ROOT/test/hostile.py" "$claim"
    assert_success
    assert_output --regexp '^[0-9]+ commands, 0 at fault$'
    assert [ "${output%% *}" -ge "$least" ]
}
