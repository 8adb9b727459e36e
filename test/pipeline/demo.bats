# The demo's rules at a tiny size: every stage with real files, then what make does when something changes.
# bats file_tags=slow

# One tiny demo for the whole file, made by the tools in BIN as they are; a test that spoils something works on a copy.
setup_file() {
    local root
    root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    export BUILD
    BUILD=$(dirname "${BIN:-$root/build/bin}")
    make -C "$root" --no-print-directory demo-stages DEMO_SIZE=tiny BUILD="$BUILD" TOOLS_READY=1 PDFLATEX= \
        RUNS="$BATS_FILE_TMPDIR/runs" DATA="$BATS_FILE_TMPDIR/data" >"$BATS_FILE_TMPDIR/demo.log" 2>&1 ||
        { cat "$BATS_FILE_TMPDIR/demo.log" >&2; return 1; }
}

setup() {
    load ../helpers
    RUNS=$BATS_FILE_TMPDIR/runs
    DATA=$BATS_FILE_TMPDIR/data
    NET=$RUNS/FashionMNIST/resS
}

mk() { # mk ARGUMENT...: make in the project, on this file's runs
    make -C "$ROOT" --no-print-directory DEMO_SIZE=tiny BUILD="$BUILD" TOOLS_READY=1 PDFLATEX= RUNS="$RUNS" DATA="$DATA" "$@"
}

spoil_a_copy() { # from here on this test has runs of its own
    cp -a "$RUNS" runs
    RUNS=$PWD/runs
    NET=$RUNS/FashionMNIST/resS
}

# The stages that make would run, one a line, without the runs directory.
would_run() {
    mk -n demo-stages "$@" | sed -n "s|.*pipelines/stage $RUNS/\([^ ]*\) .*|\1|p" | LC_ALL=C sort
}

# stages SUFFIX...: these products of all four pruned networks, one a line.
stages() {
    local id suffix
    for id in erk lamp search-0 uniform; do
        for suffix; do
            echo "FashionMNIST/resS/weight-0.1/$id/$suffix"
        done
    done
}

@test "demo: every stage runs; the table has the dense and the four pruned networks" {
    run cut -d, -f 1-3,6,8 "$RUNS/demo/weight/table.csv"
    assert_equal "$output" "data,arch,network,reg,rate
FashionMNIST,resS,dense,,
FashionMNIST,resS,uniform,weight,0.1
FashionMNIST,resS,search-0,weight,0.1
FashionMNIST,resS,erk,weight,0.1
FashionMNIST,resS,lamp,weight,0.1"
    assert_file_contains "$RUNS/demo/weight/table.txt" '^network .* clean .* FGSM .* PGD-20 .* C&W'
    assert_file_contains "$RUNS/demo/weight/table.tex" '^.bottomrule'
    assert_exists "$RUNS/demo/weight/strategies.csv"
    assert_exists "$RUNS/demo/weight/strategies.tex"
    assert_file_contains "$RUNS/demo/weight/strategies.svg" '</svg>'
}

@test "demo: clean accuracy is measured on all 10,000 test images, the attacks on as many as asked" {
    run awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        { print $col["clean_images"], $col["fgsm_images"], $col["pgd20_images"], $col["cw_images"] }' \
        "$RUNS/demo/weight/table.csv"
    assert_equal "$(sort -u <<<"$output")" "10000 50 50 50"
}

@test "demo: the four pruned networks meet the same budget, a tenth of the weights" {
    # 1 % is maskapply's tolerance; below, a search may leave some of the budget unspent.
    run awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        $col["reg"] != "" { n++; d = $col["density"]; if (d > 0.101 || d < 0.09) print $3, d }
        END { print n, "networks" }' "$RUNS/demo/weight/table.csv"
    assert_output "4 networks"
}

@test "demo: a second make does nothing, and make -n writes nothing" {
    touch mark
    run mk -n demo-stages
    assert_output "make: Nothing to be done for 'demo-stages'."
    run mk -n demo-stages FashionMNIST_FINETUNE="--epochs 2 --lr 0.05 --limit 128"
    assert_output --partial "finetune.nn"
    run mk demo-stages
    assert_output "make: Nothing to be done for 'demo-stages'."
    assert_equal "$(find "$RUNS" "$DATA" -newer mark)" ""
}

@test "demo: another option for the finetuning reruns it and what follows from it, nothing else" {
    assert_equal "$(would_run FashionMNIST_FINETUNE='--epochs 2 --lr 0.05 --limit 128')" \
        "$(stages hydra/seed-1/eval.json hydra/seed-1/finetune.nn; echo demo/weight/table.txt)"
}

@test "demo: another option for the search reruns the searched strategy only" {
    run would_run FashionMNIST_SEARCH='--warmup 4 --episodes 3'
    assert_output "$(stages strategy.json planned.nn hydra/seed-1/{prune.nn,finetune.nn,eval.json} | grep search-0 |
        LC_ALL=C sort; printf '%s\n' demo/weight/strategies.svg demo/weight/table.txt)"
}

@test "demo: another set of attacks measures again and trains nothing" {
    run would_run FashionMNIST_EVAL='--attacks clean,fgsm --limit 50'
    assert_output "$(echo FashionMNIST/resS/eval.json; stages hydra/seed-1/eval.json; echo demo/weight/table.txt)"
}

@test "demo: the number of threads is no option of a stage" {
    assert_equal "$(would_run THREADS=7)" ""
}

@test "demo: a product that was removed is made again, with what follows" {
    spoil_a_copy
    rm "$NET/weight-0.1/erk/hydra/seed-1/prune.nn"
    assert_equal "$(would_run)" "$(stages hydra/seed-1/{eval.json,finetune.nn,prune.nn} | grep erk/
        echo demo/weight/table.txt)"
}

@test "demo: changed options run the stages again and change their products" {
    spoil_a_copy
    mk demo-stages FashionMNIST_EVAL='--attacks clean,fgsm --limit 30 --stratified' >log 2>&1 || { cat log; false; }
    assert_equal "$(head -n 1 "$RUNS/demo/weight/table.csv" | cut -d, -f 13-)" "clean,clean_images,fgsm,fgsm_images"
    run mk demo-stages FashionMNIST_EVAL='--attacks clean,fgsm --limit 30 --stratified'
    assert_output "make: Nothing to be done for 'demo-stages'."
}

@test "demo: a damaged checkpoint stops make with the tool's message; the product before stays" {
    spoil_a_copy
    local dir=$NET/weight-0.1/lamp/hydra/seed-1
    truncate -s -1000 "$dir/prune.nn"
    touch "$dir/prune.nn"
    cp "$dir/finetune.nn" before.nn
    run -2 --separate-stderr mk demo-stages
    assert_regex "$stderr" "advtrain: $dir/prune.nn: "
    assert_regex "$stderr" "make: \*\*\* .*$dir/finetune.nn"
    cmp before.nn "$dir/finetune.nn" # older than prune.nn, so the next make tries again
    assert_file_contains "$dir/finetune.nn.log" "^status 1 "
    run mk status
    assert_line "failed      $dir/finetune.nn  (log: $dir/finetune.nn.log)"
}

@test "demo: a tool that is not there stops make by name" {
    spoil_a_copy
    rm "$RUNS/demo/weight/table.txt"
    mkdir empty
    run -2 --separate-stderr mk BUILD="$PWD/empty" PATH=/usr/bin:/bin demo-stages
    assert_regex "$stderr" "summarize: command not found"
    assert_not_exists "$RUNS/demo/weight/table.txt"
}

@test "demo: status tells done, stale and missing stages apart" {
    spoil_a_copy
    rm "$NET/weight-0.1/erk/hydra/seed-1/prune.nn"
    touch "$NET/weight-0.1/lamp/planned.nn"
    run mk status
    assert_success
    assert_line "done        $NET/pretrain.nn"
    assert_line "missing     $NET/weight-0.1/erk/hydra/seed-1/prune.nn  (log: $NET/weight-0.1/erk/hydra/seed-1/prune.nn.log)"
    assert_line "stale       $NET/weight-0.1/erk/hydra/seed-1/finetune.nn  (log: $NET/weight-0.1/erk/hydra/seed-1/finetune.nn.log)"
    assert_line "stale       $NET/weight-0.1/lamp/hydra/seed-1/prune.nn  (log: $NET/weight-0.1/lamp/hydra/seed-1/prune.nn.log)"
    assert_line "done        $NET/weight-0.1/uniform/hydra/seed-1/eval.json"
    assert_line "missing     $NET/channel-0.5/search-0/strategy.json"
}

# Every product of the runs directory here is byte for byte the file's.
assert_same_products() { # assert_same_products RUNS
    (cd "$RUNS" && find . -name '*.nn' -o -name '*.json' -o -name '*.csv' -o -name '*.jsonl' | LC_ALL=C sort) >products
    assert_equal "$(wc -l <products)" "$(sort -u products | wc -l)"
    [ "$(wc -l <products)" -gt 30 ]
    while read -r f; do
        cmp "$RUNS/$f" "$1/$f"
    done <products
    assert_equal "$(find "$1" -name '*.state' -o -name '*.partial')" ""
}

@test "demo: one thread, and Ctrl-C again and again: make goes on and makes the same bytes as two threads at once" {
    local pid status seconds
    for seconds in 3 1 2 4 1 3; do
        # a process group of its own, as in a terminal; shells start background jobs with SIGINT ignored
        env --default-signal=INT setsid make -C "$ROOT" --no-print-directory demo-stages DEMO_SIZE=tiny \
            BUILD="$BUILD" TOOLS_READY=1 PDFLATEX= RUNS="$PWD/again" DATA="$DATA" THREADS=1 >>log 2>&1 &
        pid=$!
        sleep $seconds
        kill -INT -- -$pid || break # done already
        status=0
        wait $pid || status=$?
        assert_equal "$status" 130 # make's way: by the signal, after its children
    done
    mk demo-stages RUNS="$PWD/again" THREADS=1 >>log 2>&1 || { cat log; false; }
    assert_same_products "$PWD/again"
    # what was finished was not made again
    run awk '/^>> / { n[$2]++ } /^   [0-9.]+ s$/ { done++ } END { print done }' log
    assert_equal "$output" "$(grep '^>> ' log | sort -u | wc -l)"
}

@test "demo: a stage that was killed is told by status, goes on, and begins again when an option changed" {
    spoil_a_copy
    local dir=$NET/weight-0.1/uniform/hydra/seed-1 options="--epochs 3 --lr 0.05 --limit 128"
    mk "$dir/finetune.nn" FashionMNIST_FINETUNE="$options" >log 2>&1
    cp "$dir/finetune.nn" want.nn
    cp "$dir/finetune.jsonl" want.jsonl
    mk "$dir/finetune.nn" >>log 2>&1 # other options
    cp "$dir/finetune.nn" before.nn
    HERACLES_CRASH=renamed:2 run -2 mk "$dir/finetune.nn" FashionMNIST_FINETUNE="$options"
    assert_output --partial "killed (status 137)"
    cmp before.nn "$dir/finetune.nn"
    run mk status FashionMNIST_FINETUNE="$options"
    assert_line "interrupted $dir/finetune.nn  (log: $dir/finetune.nn.log)"
    mk "$dir/finetune.nn" FashionMNIST_FINETUNE="$options" >>log 2>&1
    assert_file_contains "$dir/finetune.nn.log" "finetune.nn.state: going on in epoch 3 behind step 0"
    assert_equal "$(grep -c 'epoch 1/3 train' "$dir/finetune.nn.log")" 1
    cmp want.nn "$dir/finetune.nn"
    cmp want.jsonl "$dir/finetune.jsonl"

    HERACLES_CRASH=renamed:1 run -2 mk "$dir/finetune.nn" FashionMNIST_FINETUNE="$options --batch 64"
    assert_exists "$dir/finetune.nn.state"
    mk "$dir/finetune.nn" FashionMNIST_FINETUNE="$options" >>log 2>&1 # refused without --restart
    cmp want.nn "$dir/finetune.nn"
    assert_not_exists "$dir/finetune.nn.state"
}

@test "demo: a record tells how the network was made, back to the images" {
    run summarize --history "$NET/weight-0.1/search-0/hydra/seed-1/eval.json"
    assert_success
    assert_output --partial "adveval"
    assert_output --partial "advtrain 0.1.0 --stage finetune"
    assert_output --partial "advtrain 0.1.0 --stage prune"
    assert_output --partial "maskapply"
    assert_output --partial "ddpg-search"
    assert_output --partial "advtrain 0.1.0 --stage pretrain --arch resS"
    run grep -F "$BATS_FILE_TMPDIR" <(printf '%s\n' "${lines[@]:1}") # the first line names the record itself
    assert_output ""
}

@test "make tables and plots collect what there is" {
    spoil_a_copy
    mk tables >log 2>&1
    assert_equal "$(cut -d, -f 3 "$NET/table.csv" | LC_ALL=C sort | tr '\n' ' ')" \
        "dense erk lamp network search-0 uniform "
    mk plots >log 2>&1
    assert_exists "$NET/weight-0.1/strategies.svg"
}

@test "make clean leaves results and data alone" {
    mkdir -p b/bin runs data
    touch runs/x data/y
    make -C "$ROOT" BUILD="$PWD/b" RUNS="$PWD/runs" DATA="$PWD/data" -n clean >log
    assert_file_contains log "^rm -rf '$PWD/b'"
    run grep -E "$PWD/(runs|data)" log
    assert_failure
}

@test "make refuses a demo that does not exist" {
    run -2 mk demo-stages DEMO=layers
    assert_output --partial "DEMO is 'layers': weight or channel is needed"
}
