# test/run: what it counts, and that nothing that went wrong can look like success.
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
