# adveval --serve: the evaluator's side of the protocol, spoken through pipes.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 1000 120
}

setup() {
    load ../helpers
    load ../fashion
    D=$BATS_FILE_TMPDIR
    SERVE="adveval --serve --threads 1 -d $D/test.tfrecord --batch 50 --eps 0.1 --step 0.025 --steps 2"
    DENSE="144,2304,2304,512,4608,9216,2048,18432,36864,640"
    HALF="144,1152,1152,256,2304,4608,1024,9216,18432,640"
}

@test "adveval --serve: greets with its decision layers and answers by id until the end of input" {
    printf '%s\n' "{\"id\":7,\"kept\":[$DENSE],\"batches\":[0,3]}" "{\"id\":3,\"kept\":[$HALF],\"batches\":[0,3]}" |
        $SERVE -r weight "$D/net.nn" >replies
    assert_equal "$(pick replies '(len(l), j["proto"], j["reg"], j["batches"], j["images"], len(j["layers"]), j["layers"][3])')" \
        "(3, 1, 'weight', 3, 120, 10, {'name': 'layer2.0.shortcut.0', 'n': 512})"
    assert_equal "$(pick replies '[(r["id"], r["n"], r["params"]) for r in l[1:]]')" "[(7, 120, 77072), (3, 120, 38928)]"
    assert_equal "$(pick replies 'l[1]["clean"] > 60 and l[1]["clean"] > l[1]["robust"]')" True
    $SERVE -r channel "$D/net.nn" </dev/null >replies
    # the two shortcuts follow their block's first convolution
    assert_equal "$(pick replies '(len(l), [x["n"] for x in j["layers"]])')" "(1, [1, 16, 16, 16, 32, 32, 64, 64])"
}

@test "adveval --serve: a dense strategy counts what adveval counts with batch statistics" {
    adveval -q -d "$D/test.tfrecord" --batch 50 --bn batch --attacks clean "$D/net.nn" >eval.json
    echo "{\"id\":1,\"kept\":[$DENSE]}" | $SERVE -r weight "$D/net.nn" >replies
    assert_equal "$(pick replies 'l[1]["clean"]')" "$(pick eval.json 'j["attacks"][0]["correct"]')"
}

@test "adveval --serve: same replies from another process, another thread count, another order" {
    local a="{\"id\":1,\"kept\":[$HALF],\"batches\":[0,3]}" b="{\"id\":2,\"kept\":[$DENSE],\"batches\":[1,2]}"
    printf '%s\n' "$a" "$b" | $SERVE -r weight "$D/net.nn" | sort >one
    printf '%s\n' "$b" "$a" | $SERVE -r weight --threads 2 "$D/net.nn" | sort >two
    cmp one two
}

@test "adveval --serve: a reply comes before the next request is sent" {
    coproc EVAL { $SERVE -r weight "$D/net.nn"; }
    local pid=$EVAL_PID line i out=${EVAL[0]} in=${EVAL[1]}
    read -r -t 60 line <&"$out"
    [[ "$line" == '{"proto":1,'* ]]
    for i in 1 2; do
        echo "{\"id\":$i,\"kept\":[$HALF],\"batches\":[0,1]}" >&"$in"
        read -r -t 60 line <&"$out"
        [[ "$line" == "{\"id\":$i,"* ]]
    done
    exec {in}>&-
    wait "$pid"
}

@test "adveval --serve: bad requests are answered, a pruned network is refused, a deaf reader ends it" {
    printf '%s\n' nonsense '{"id":1,"kept":[1]}' "{\"id\":2,\"kept\":[$DENSE],\"batches\":[0,1]}" |
        $SERVE -r weight "$D/net.nn" >replies
    assert_equal "$(pick replies '[("error" in r, r.get("id")) for r in l[1:]]')" "[(True, None), (True, 1), (False, 2)]"
    maskapply -q -s uniform:0.5 -o pruned.nn "$D/net.nn"
    run --separate-stderr $SERVE -r weight pruned.nn </dev/null
    assert_refused
    assert_equal "$output" ""
    run --separate-stderr bash -c "$SERVE -r weight $D/net.nn </dev/null >/dev/full"
    assert_refused
}

@test "adveval --serve: ddpg-search takes it as its evaluator" {
    nninfo --format json "$D/net.nn" >layers.json
    ddpg-search -q --layers layers.json -t 0.3 --warmup 2 --episodes 2 -o strategy.json \
        -e "$SERVE -q --limit 50 -r weight $D/net.nn"
    maskapply -q -s strategy.json --target 0.3 -o pruned.nn "$D/net.nn"
    adveval -q -d "$D/test.tfrecord" --attacks clean pruned.nn >eval.json
    assert_equal "$(pick eval.json '0.25 < j["pruning"]["density"] <= 0.303')" True
}

@test "adveval --serve: parts of the batches add up to the whole, and two evaluators find what one finds" {
    printf '%s\n' "{\"id\":1,\"kept\":[$HALF]}" "{\"id\":2,\"kept\":[$HALF],\"batches\":[0,1]}" \
        "{\"id\":3,\"kept\":[$HALF],\"batches\":[1,3]}" | $SERVE -r weight "$D/net.nn" >replies
    assert_equal "$(pick replies 'all(l[1][k] == l[2][k] + l[3][k] for k in ("n", "clean", "robust"))')" True
    nninfo --format json "$D/net.nn" >layers.json
    local n
    for n in 1 2; do
        ddpg-search -q --layers layers.json -t 0.3 --warmup 3 --episodes 2 -o $n.json -j $n \
            -e "$SERVE -q -r weight $D/net.nn"
    done
    cmp 1.json 2.json
}

@test "adveval --serve --reward-after: the reward is taken after learning scores, with enough images only" {
    local asked="{\"id\":1,\"kept\":[$HALF]}"
    echo "$asked" | $SERVE -r weight --reward-after 2 --train "$D/train.tfrecord" "$D/net.nn" >one
    echo "$asked" | $SERVE -r weight --reward-after 2 --train "$D/train.tfrecord" --threads 2 "$D/net.nn" >two
    cmp one two
    echo "$asked" | $SERVE -r weight --reward-after 1 --train "$D/train.tfrecord" "$D/net.nn" >other
    run cmp -s one other
    assert_failure
    run --separate-stderr $SERVE -r weight --reward-after 1000 --train "$D/train.tfrecord" "$D/net.nn" </dev/null
    assert_refused
    assert_regex "$stderr" "train.tfrecord: [0-9]+ images, --reward-after 1000 needs 128000"
}
