# maskapply: wrong usage, and everything that is no network or no strategy for it.
setup() {
    load ../helpers
    MKNN=$(dirname "$BIN")/test/mknn
    "$MKNN" resS 1 net.nn
}

# refuse MESSAGE ARGUMENT...: status 1, one line, no output.
refuse() {
    local message=$1
    shift
    run --separate-stderr maskapply -o out.nn --report out.tsv --strategy-out out.json "$@"
    assert_refused out.nn out.tsv out.json
    assert_equal "$stderr" "maskapply: $message"
}

@test "maskapply --help shows every option and an example, status 0" {
    run --separate-stderr maskapply --help
    assert_success
    assert_equal "$stderr" ""
    assert_output --partial "--strategy-out FILE"
    assert_output --partial "Example: maskapply"
}

@test "maskapply: wrong usage is status 2 with a hint" {
    local args
    for args in "" "net.nn" "-s uniform:0.1" "-s uniform:0 net.nn" "-s uniform:2 net.nn" "-s foo:0.1 net.nn" \
        "-s uniform:0.1 -r filter net.nn" "-s uniform:0.1 --target 0 net.nn" "-s erk:0.1 net.nn more.nn" \
        "-s x.json:resS/filter/0 net.nn"; do
        # shellcheck disable=SC2086
        run -2 --separate-stderr maskapply $args
        assert_equal "${stderr_lines[1]}" "Try 'maskapply --help'."
        assert_equal "$output" ""
    done
}

@test "maskapply: missing files are named" {
    refuse "gone.nn: No such file or directory" -s uniform:0.1 gone.nn
    refuse "gone.json: No such file or directory" -s gone.json net.nn
    refuse "gone.json: No such file or directory" -s gone.json:resS/weight/x net.nn
}

@test "maskapply: a cut, damaged or foreign network is refused, also from a pipe" {
    local n size
    size=$(stat -c %s net.nn)
    for n in 0 1 100 5000 $((size / 2)) $((size - 1)); do
        head -c "$n" net.nn >cut.nn
        run --separate-stderr maskapply -s uniform:0.1 -o out.nn cut.nn
        assert_refused out.nn
        [[ $stderr == "maskapply: cut.nn: "* ]]
        run --separate-stderr maskapply -s uniform:0.1 -o out.nn - <cut.nn
        assert_refused out.nn
        [[ $stderr == "maskapply: <stdin>: "* ]]
    done
    run --separate-stderr maskapply -s uniform:0.1 -o out.nn "$BATS_TEST_FILENAME"
    assert_refused out.nn
}

@test "maskapply: strategies that do not fit the network are refused by name" {
    echo '{"resS": {"weight": {"a": [0.5, 0.5]}}}' >short.json
    refuse "short.json: resS/weight/a: holds 2 rates, the network has 10 weight layers" -s short.json net.nn
    refuse "short.json: strategy resS/weight/a is for weight pruning, not for channel" -s short.json -r channel net.nn
    refuse "short.json: has no architecture 'resX', only: resS" -s short.json:resX/weight/a net.nn
    refuse "short.json: has no strategy 'b', only: a" -s short.json:resS/weight/b net.nn
    echo '{"resS": {"channel": {"a": [1, 1, 1, 1, 1, 1, 1, 0]}}}' >zero.json
    refuse "zero.json: resS/channel/a: rate 8 is not as it should be: a strategy holds rates in (0,1]" \
        -s zero.json -r channel net.nn
    echo 'rates' >words.json
    run --separate-stderr maskapply -s words.json -o out.nn net.nn
    assert_refused out.nn
    [[ $stderr == "maskapply: words.json: line 1: not valid JSON"* ]]
}

@test "maskapply: a budget that a rule cannot meet is refused" {
    refuse "uniform+:0.001: what this rule keeps in any case costs more than the budget of 0.001 (inout)" \
        -s uniform+:0.001 net.nn
}

@test "maskapply refuses to write a network to a terminal" {
    run script -qec "maskapply -s uniform:0.1 net.nn" /dev/null
    assert_failure 1
    assert_output --partial "terminal"
}

@test "maskapply: a full disk is status 1 and named" {
    run --separate-stderr maskapply -q -s uniform:0.1 -o /dev/full net.nn
    assert_equal "$status" 1
    [[ $stderr == "maskapply: /dev/full: "* ]]
    run --separate-stderr bash -c 'maskapply -q -s uniform:0.1 net.nn >/dev/full'
    assert_equal "$status" 1
}
