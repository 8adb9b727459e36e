# test/helpers.bash -- loaded by every bats file: `load ../helpers` in setup().
# Tools come from $BIN (default build/bin); every test works in its own directory.
bats_require_minimum_version 1.5.0
export BATS_LIB_PATH=${BATS_LIB_PATH:-/usr/lib/bats}
bats_load_library bats-support
bats_load_library bats-assert
bats_load_library bats-file

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
export ROOT
BIN=${BIN:-$ROOT/build/bin}
export PATH="$BIN:$PATH"
export OMP_WAIT_POLICY=passive # as in the Makefile: test files run side by side
cd "$BATS_TEST_TMPDIR" || exit 1

# The first Python that can import the named modules, as the Makefile's peers are found; else skip, which is a
# failure when REQUIRE_PEERS=1.
need_python() { # need_python MODULE...
    local p imports
    imports="import $(IFS=,; echo "$*")"
    for p in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3; do
        if "$p" -c "$imports" 2>/dev/null; then
            PYTHON=$p
            export PYTHON
            return 0
        fi
    done
    if [ "${REQUIRE_PEERS:-0}" = 1 ]; then
        fail "no Python here can import $*"
    fi
    skip "no Python here can import $*"
}

# One line on stderr, status 1, and none of the named outputs or their partial files left behind. Call after
# `run --separate-stderr`.
assert_refused() { # assert_refused OUTPUT...
    assert_equal "$status" 1
    assert_equal "$(printf '%s\n' "$stderr" | wc -l)" 1
    local out
    for out in "$@"; do
        assert_not_exists "$out"
        assert_not_exists "$(dirname "$out")/.$(basename "$out").partial"
    done
}
