# stgplot: wrong usage, and everything that is no strategy file.
setup() {
    load ../helpers
    echo '{"tiny": {"weight": {"010_0": [0.5, 0.2, 0.1]}}}' >good.json
}

refuse() { # refuse MESSAGE ARGUMENT...
    local message=$1
    shift
    run --separate-stderr stgplot -o fig "$@"
    assert_refused fig.csv fig.tex fig.svg
    assert_equal "$stderr" "stgplot: $message"
}

@test "stgplot --help shows every option and an example, status 0" {
    run --separate-stderr stgplot --help
    assert_success
    assert_equal "$stderr" ""
    assert_output --partial "--no-legend"
    assert_output --partial "Example: stgplot"
}

@test "stgplot: wrong usage is status 2 with a hint" {
    local args
    for args in "" "good.json" "-o fig" "-o fig --reg filter good.json" "-o fig --rate 2 good.json" \
        "-o fig --rate 0.5,0.1 good.json" "-o fig --colour red good.json"; do
        # shellcheck disable=SC2086
        run -2 --separate-stderr stgplot $args
        assert_equal "${stderr_lines[1]}" "Try 'stgplot --help'."
    done
}

@test "stgplot: bad files are refused by name, nothing is written" {
    refuse "gone.json: No such file or directory" gone.json
    echo '[1]' >list.json
    refuse "list.json: holds no strategy {ARCH: {REG: {ID: rates}}}" list.json
    echo '{}' >empty.json
    refuse "empty.json: holds no strategy {ARCH: {REG: {ID: rates}}}" empty.json
    echo '{"tiny": {"weight": {"010_0": [0.5, 2, 0.1]}}}' >two.json
    refuse "two.json: weight strategy '010_0': has no rate in (0,1] for layer 2" two.json
    echo '{"tiny": {"weight": {"010_1": [0.5]}}}' >short.json
    refuse "short.json: weight strategy '010_1': holds 1 rates, the network has 3 such layers (another one? see --layers)" \
        good.json short.json
    echo '{"tiny": {"weight": {"010_1": 7}}}' >seven.json
    refuse "seven.json: weight strategy '010_1': holds no rates" seven.json
    echo '{"other": {"weight": {"010_1": [1, 1, 1]}}}' >other.json
    refuse "other.json: holds 'other' and not only 'tiny': choose with --arch" good.json other.json
    refuse "good.json: no strategy of tiny is left to draw (--reg, --rate, --series)" --series erk good.json
    refuse "good.json: no strategy of nobody is left to draw (--reg, --rate, --series)" --arch nobody good.json
    echo '{"layers": [{"name": "a"}]}' >layers.json
    refuse "layers.json: layer 1: name, op or channel_index is missing or out of range" --layers layers.json good.json
    refuse "good.json: is no layer table (nninfo --format json)" --layers good.json good.json
}

@test "stgplot: a directory that is not there is named" {
    run --separate-stderr stgplot -q -o no/where/fig good.json
    assert_equal "$status" 1
    [[ $stderr == "stgplot: no/where/fig.csv: "* ]]
}
