# pipelines/stale: which stages have to run, by what their inputs hold.
setup() {
    load ../helpers
    STAGE=$ROOT/pipelines/stage
    echo one >a
    echo two >b
    make_out b2 b # a -> a2 -> c, b -> b2 -> c
    make_out a2 a
    make_out c a2 b2
}

# make_out OUT INPUT...: as a stage makes it
make_out() {
    local out=$1
    shift
    INPUTS="$*" "$STAGE" "$out" bash -c "cat $* >.part && mv .part $out" 2>/dev/null
}

stale() { # stale [WORD...]: the stages that have to run, of these three or those that are given
    [ $# -gt 0 ] || set -- c: a2 b2 a2: a b2: b
    "$ROOT/pipelines/stale" "$@" | LC_ALL=C sort | tr '\n' ' '
}

@test "stale: nothing is, and nothing is by being touched or copied, alone or together, to before or behind" {
    assert_equal "$(stale)" ""
    local f
    for f in a b a2 b2 c {a2,b2,c}.{args,log}; do
        touch "$f"
        assert_equal "$f: $(stale)" "$f: "
    done
    touch -d '1 hour ago' c
    touch -d '1 hour' a a2.args
    assert_equal "$(stale)" ""
    mkdir copy
    for f in c c.args b2 b2.args a2 a2.args b a; do
        cp "$f" copy
    done
    cd copy
    assert_equal "$(stale)" ""
}

@test "stale: another content is, and everything behind it, whatever its size and time; in any order of declaration" {
    cp -p a keep
    echo six >a # the same size
    touch -d '1 year ago' a
    assert_equal "$(stale)" "a2 c "
    assert_equal "$(stale a2: a b2: b c: a2 b2)" "a2 c "
    cp -p keep a
    assert_equal "$(stale)" ""
    cp keep a
    assert_equal "$(stale)" ""
    : >b2
    assert_equal "$(stale)" "c "
}

@test "stale: what is not there, was never finished, or has another command is, and what stands behind it" {
    assert_equal "$(stale c: a2 b2 a2: FORCE a b2: b)" "a2 c "
    mv b2.args b2.begun
    assert_equal "$(stale)" "b2 c "
    mv b2.begun b2.args
    rm c
    assert_equal "$(stale)" "c "
    rm b
    assert_equal "$(stale)" "b2 c "
}

@test "stale: one input more, one less" {
    assert_equal "$(stale a2: a b b2: b)" "a2 "
    assert_equal "$(stale c: a2)" "c "
}

@test "stale: where OUT.args holds only a command, times decide" {
    echo "cat" >c.args
    touch -d '1 minute ago' c.args a2 b2
    assert_equal "$(stale)" ""
    touch -d '1 minute' b2
    assert_equal "$(stale)" "c "
    touch -d '1 minute ago' b2
    touch -d '1 minute' c.args
    assert_equal "$(stale)" "c "
}

@test "stale: an archive of gigabytes is not read: size and time tell" {
    truncate -s 100G archive # no disk has it, and reading it would take minutes
    INPUTS=archive "$STAGE" out touch out
    assert_file_contains out.args "^107374182400 [0-9.]* 107374182400@[0-9.]* archive"
    assert_equal "$(stale out: archive)" ""
    touch -d '1 hour ago' archive
    assert_equal "$(stale out: archive)" "out "
}
