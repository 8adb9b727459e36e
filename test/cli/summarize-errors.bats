# summarize: usage, and everything that is no evaluation record.
setup() {
    load ../helpers
    cat >good.json <<'J'
{"record":"eval","version":1,"model":{"arch":"resS","digest":"ab","params":100,"label":"a"},"pruning":null,"data":{"name":"D","images":1000,"digest":"cd"},"attacks":[{"name":"clean","images":1000,"correct":700,"accuracy":70.0,"balanced":69.5},{"name":"fgsm","loss":"ce","eps":0.1,"step":0.1,"steps":1,"restarts":1,"images":1000,"correct":600,"accuracy":60.0,"balanced":60.0}],"history":{}}
J
}

# refuse SED-EXPRESSION MESSAGE: the good record so changed is refused with this message.
refuse() {
    sed "$1" good.json >bad.json
    run ! cmp -s good.json bad.json
    run --separate-stderr summarize --csv out.csv -o out.txt bad.json
    assert_refused out.csv out.txt
    assert_equal "$stderr" "summarize: bad.json: $2"
}

@test "summarize --help shows every option and an example, status 0" {
    run --separate-stderr summarize --help
    assert_success
    assert_equal "$stderr" ""
    assert_output --partial "--latex FILE"
    assert_output --partial "Example: summarize"
}

@test "summarize: wrong usage is status 2 with a hint" {
    run -2 --separate-stderr summarize
    assert_equal "${stderr_lines[1]}" "Try 'summarize --help'."
    run -2 summarize --format xml good.json
    run -2 summarize --accuracy great good.json
}

@test "summarize: a missing, empty, cut or foreign file is refused by name" {
    run --separate-stderr summarize nothing.json
    assert_refused
    assert_equal "$stderr" "summarize: nothing.json: No such file or directory"
    : >empty.json
    run --separate-stderr summarize empty.json
    assert_refused
    assert_equal "$stderr" "summarize: empty.json: is empty, a JSON record is needed"
    head -c 200 good.json >cut.json
    run --separate-stderr summarize cut.json
    assert_refused
    assert_regex "$stderr" "^summarize: cut.json: line 1: not valid JSON: "
    head -c 100 /dev/urandom >noise.json
    run --separate-stderr summarize noise.json
    assert_refused
    echo '{"resS":{"weight":{}}}' >strategy.json
    run --separate-stderr summarize strategy.json
    assert_refused
    assert_equal "$stderr" 'summarize: strategy.json: line 1: not an evaluation record: "record" is missing or no string, '"'eval' is needed"
}

@test "summarize: the line of a bad record in a file of many is named" {
    { cat good.json good.json; echo '{"record":"train"}'; } >many.json
    run --separate-stderr summarize many.json
    assert_refused
    assert_equal "$stderr" "summarize: many.json: line 3: not an evaluation record: \"record\" is train, 'eval' is needed"
}

@test "summarize: numbers that cannot be true are refused" {
    refuse 's/"correct":700/"correct":1700/' "line 1: clean: 1700 images of 1000 are correct"
    refuse 's/"accuracy":70.0/"accuracy":71.0/' "line 1: clean: accuracy is 71, but 700 of 1000 is 70.0000"
    refuse 's/"balanced":69.5/"balanced":169.5/' "line 1: attacks[0].balanced is 169.5, outside 0..100"
    refuse 's/"correct":700/"correct":-7/' "line 1: attacks[0].correct is -7, at least 0 is needed"
    refuse 's/"images":1000,"correct":700/"images":0,"correct":0/' "line 1: attacks[0].images is 0, at least 1 is needed"
    refuse 's/"eps":0.1/"eps":1.5/' "line 1: attacks[1].eps is 1.5, outside 0..1"
    refuse 's/"pruning":null/"pruning":{"reg":"weight","strategy":"s","rate":1.5,"density":1,"budget":{"inout":1,"masked":1,"macs":1}}/' \
        "line 1: pruning.rate is 1.5, outside 0..1"
}

@test "summarize: missing and mistyped fields are named" {
    refuse 's/"arch":"resS",//' "line 1: model.arch is missing, a string is needed"
    refuse 's/"params":100/"params":"many"/' "line 1: model.params is of another type, a whole number is needed"
    refuse 's/"version":1/"version":2/' "line 1: record.version is 2, this program reads 1"
    refuse 's/"fgsm"/"clean"/' "line 1: 'clean' is there twice"
    refuse 's/"pruning":null,//' "line 1: record.pruning is missing, an object or null is needed"
}

@test "summarize: a full disk is an error, not a short table" {
    [ -w /dev/full ] || skip "no /dev/full here"
    run -1 --separate-stderr bash -c 'summarize good.json >/dev/full'
    run -1 --separate-stderr summarize -o /dev/full good.json
}
