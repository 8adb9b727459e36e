# test/cli/ddpg-search-publish.bats -- strategies of single files in one collection.
setup() {
    load ../helpers
    need_python json
}

# strategy FILE ID TARGET [RATE]: a strategy of two layers.
strategy() {
    cat >"$1" <<E2
{"tiny":{"weight":{"$2":{"layers":["a","b"],"rates":[${4:-0.5},0.25],"kept":[2,1],"budget":{"target":$3}}}}}
E2
}

ids() { "$PYTHON" -c 'import json, sys
print({a: {r: {i: e["rates"][0] if "rates" in e else e[0] for i, e in ids.items()} for r, ids in regs.items()}
       for a, regs in json.load(open(sys.argv[1])).items()})' "$1"; }

@test "ddpg-search --publish: entries are added under names that tell budgets apart, and replace those of their name" {
    strategy a.json search-0 0.1
    strategy b.json search-0 0.03
    strategy c.json search-12 0.005
    strategy d.json uniform:0.1 0.1
    ddpg-search --publish all.json a.json b.json
    assert_equal "$(ids all.json)" "{'tiny': {'weight': {'01_0': 0.5, '003_0': 0.5}}}"
    ddpg-search --publish all.json c.json d.json
    assert_equal "$(ids all.json)" \
        "{'tiny': {'weight': {'01_0': 0.5, '003_0': 0.5, '0005_12': 0.5, 'uniform:0.1': 0.5}}}"
    strategy a.json search-0 0.1 0.75
    ddpg-search --publish all.json a.json
    assert_equal "$(ids all.json)" \
        "{'tiny': {'weight': {'01_0': 0.75, '003_0': 0.5, '0005_12': 0.5, 'uniform:0.1': 0.5}}}"
    # published lists, other networks and channels live beside them
    echo '{"tiny":{"channel":{"05_0":[1.0,0.5]}},"other":{"weight":{"01_0":[0.1]}}}' >old.json
    ddpg-search --publish all.json old.json
    assert_equal "$(ids all.json)" "{'tiny': {'weight': {'01_0': 0.75, '003_0': 0.5, '0005_12': 0.5, 'uniform:0.1': 0.5}, 'channel': {'05_0': 1.0}}, 'other': {'weight': {'01_0': 0.1}}}"
}

@test "ddpg-search --publish: what changes nothing leaves the file alone; a second writer is refused" {
    strategy a.json search-0 0.1
    ddpg-search --publish all.json a.json
    touch -d 2001-01-01 all.json
    cp -p all.json before
    ddpg-search --publish all.json a.json
    assert_equal "$(stat -c '%Y %i' all.json)" "$(stat -c %Y before) $(stat -c %i all.json)"
    touch .all.json.partial
    exec 8<.all.json.partial
    flock 8
    strategy b.json search-1 0.1
    run --separate-stderr ddpg-search --publish all.json b.json
    assert_equal "$status" 1
    assert_equal "$stderr" "ddpg-search: all.json: another process is writing it now"
    exec 8<&-
    cmp all.json before
    ddpg-search --publish all.json b.json
    assert_equal "$(ids all.json)" "{'tiny': {'weight': {'01_0': 0.5, '01_1': 0.5}}}"
}

@test "ddpg-search --publish: a file that holds no strategies is refused, and nothing is published" {
    strategy a.json search-0 0.1
    ddpg-search --publish all.json a.json
    cp all.json before
    strategy a.json search-1 0.1
    local bad
    for bad in '[]' '{"x":1}' '{"x":{"rows":{"a":[0.5]}}}' '{"x":{"weight":{"a":[0.5,2]}}}' '{"x":{"weight":{"a":[]}}}' \
        '{"x":{"weight":{"a":{"rates":[0.5]}}}}' '{"x":{"weight":{"a":{"layers":["l"],"rates":[0]}}}}' \
        '{"x":{"weight":{"a":{"layers":["l"],"rates":[0.5],"kept":[]}}}}' '{"x":{"weight":3}}' nonsense; do
        echo "$bad" >bad.json
        run --separate-stderr ddpg-search --publish all.json a.json bad.json
        assert_equal "$status" 1
        assert_equal "${#stderr_lines[@]}" 1
        assert_regex "$stderr" "^ddpg-search: bad.json: "
        cmp all.json before
        run --separate-stderr ddpg-search --publish bad.json a.json
        assert_equal "$status" 1
        assert_equal "$(cat bad.json)" "$bad"
        assert_equal "$(echo .*.partial)" ".*.partial"
    done
    run --separate-stderr ddpg-search --publish all.json missing.json
    assert_equal "$status" 1
    run --separate-stderr ddpg-search --publish all.json
    assert_equal "$status" 2
}
