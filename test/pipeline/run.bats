# test/run and test/long/check: what they count, and that nothing that went wrong can look like success.
setup() {
    load ../helpers
    export BUILD
    BUILD=$(dirname "$BIN")
}

# testfile: a bats file from lines whose tests begin with %test, which bats must not take for this file's own.
testfile() { sed 's/^%/@/'; }

# tests: run test/run on files here; its last line is the sum.
tests() {
    run env -u BATS_TEST_DIRNAME "$ROOT/test/run" "$@"
    sum=${lines[-1]}
}

@test "test/run: passed, failed and skipped tests are counted and failures shown" {
    testfile >a.bats <<'B'
%test "goes well" { true; }
%test "goes wrong" { echo "because of this"; false; }
%test "is not for here" { skip "no peer"; }
B
    tests "$PWD/a.bats"
    assert_failure
    assert_equal "$sum" "1 passed, 1 failed, 1 skipped"
    assert_line --partial "not ok 2 goes wrong"
    assert_line --partial "because of this"
    assert_line --partial "no peer"
}

@test "test/run: two files at once are added up" {
    for i in 1 2 3; do
        echo '%test "goes well" { true; }' | testfile >"$i.bats"
    done
    tests "$PWD"
    assert_success
    assert_equal "$sum" "3 passed, 0 failed, 0 skipped"
}

@test "test/run: tests that were planned and never reported count as failed" {
    testfile >a.bats <<'B'
setup_file() { false; }
%test "one" { true; }
%test "two" { true; }
B
    tests "$PWD/a.bats"
    assert_failure
    assert_equal "$sum" "0 passed, 2 failed, 0 skipped"
}

@test "test/run: a file that is no test, and no file at all, are failures" {
    echo 'this is (no shell' >a.bats
    tests "$PWD/a.bats"
    assert_failure
    refute_regex "$sum" " 0 failed"
    mkdir empty
    tests "$PWD/empty"
    assert_failure
    assert_equal "$sum" "0 passed, 1 failed, 0 skipped"
}

@test "test/run: a file that hangs is stopped and counts as failed" {
    echo '%test "hangs" { sleep 60; }' | testfile >a.bats
    TEST_TIMEOUT=2 tests "$PWD/a.bats"
    assert_failure
    assert_equal "$sum" "0 passed, 1 failed, 0 skipped"
    assert_output --partial "stopped after 2 s"
}

@test "test/run --quick leaves out what is tagged slow, and only that" {
    testfile >a.bats <<'B'
# bats test_tags=slow
%test "slow" { false; }
%test "quick" { true; }
B
    tests --quick "$PWD/a.bats"
    assert_success
    assert_equal "$sum" "1 passed, 0 failed, 0 skipped"
}

@test "check-long: every part runs, whatever became of the others, and their sums are added up" {
    # the script works in the tree that it lies in: here one whose runners are these
    mkdir -p test/long test/fuzz
    cp "$ROOT/test/long/check" test/long/check
    cat >test/run <<'S'
#!/bin/bash
case $* in
"--valgrind test/unit") echo "3 passed, 1 failed, 2 skipped"; exit 1 ;;
test/long) echo "5 passed, 0 failed, 1 skipped" ;;
esac
S
    printf '#!/bin/bash\necho "fuzz $*"; echo "7 passed, 0 failed, 0 skipped"\n' >test/fuzz/run
    chmod +x test/run test/fuzz/run
    run -1 test/long/check
    assert_line "fuzz 600"
    assert_equal "${lines[-1]}" "15 passed, 1 failed, 3 skipped"
    FUZZ_SECONDS=5 run -0 test/long/check long fuzz
    assert_line "fuzz 5"
    assert_equal "${lines[-1]}" "12 passed, 0 failed, 1 skipped"

    # a part that comes to no sum, or fails with a good one, is a failure
    printf '#!/bin/bash\necho "7 passed, 0 failed, 0 skipped"; echo "Killed"\n' >test/fuzz/run
    run -1 test/long/check long fuzz
    assert_equal "${lines[-1]}" "5 passed, 1 failed, 1 skipped"
    printf '#!/bin/bash\necho "7 passed, 0 failed, 0 skipped"; exit 1\n' >test/fuzz/run
    run -1 test/long/check fuzz
    assert_equal "${lines[-1]}" "7 passed, 1 failed, 0 skipped"
    run -2 test/long/check fuzzz
}
