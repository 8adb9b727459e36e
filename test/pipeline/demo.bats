# The demo's rules at a tiny size: every stage with real files, then what make does when something changes.
# bats file_tags=slow

# be32 N: the number as four bytes.
be32() { printf "\\x$(printf %02x $(($1 >> 24)))\\x$(printf %02x $(($1 >> 16 & 255)))\\x$(printf %02x $(($1 >> 8 & 255)))\\x$(printf %02x $(($1 & 255)))"; }

# first N FILE HEADER ITEM DIR: FILE of Fashion-MNIST with its first N items only; header and items have that many bytes.
first() {
    {
        zcat "$2" | head -c 4
        be32 "$1"
        zcat "$2" | head -c $(($3 + $1 * $4)) | tail -c +9
    } | gzip -n >"$5/${2##*/}"
}

# One tiny demo for the whole file, on 2,000 and 1,000 images, made by the tools in BIN as they are; a test that spoils
# something works on a copy.
setup_file() {
    local published=/usr/share/datasets/fashion-mnist archives=$BATS_FILE_TMPDIR/archives
    load ../helpers
    cd "$BATS_FILE_TMPDIR" || return
    mkdir archives
    first 2000 $published/train-images-idx3-ubyte.gz 16 784 "$archives"
    first 2000 $published/train-labels-idx1-ubyte.gz 8 1 "$archives"
    first 1000 $published/t10k-images-idx3-ubyte.gz 16 784 "$archives"
    first 1000 $published/t10k-labels-idx1-ubyte.gz 8 1 "$archives"
    export BUILD
    BUILD=$(dirname "$BIN")
    RUNS=$PWD/runs DATA=$PWD/data
    mk demo-stages >demo.log 2>&1 || { cat demo.log >&2; return 1; }
}

setup() {
    load ../helpers
    RUNS=$BATS_FILE_TMPDIR/runs
    DATA=$BATS_FILE_TMPDIR/data
    NET=$RUNS/FashionMNIST/resS
}

mk() { # mk ARGUMENT...: make in the project, on this file's runs
    make -C "$ROOT" --no-print-directory DEMO_SIZE=tiny BUILD="$BUILD" TOOLS_READY=1 PDFLATEX= RUNS="$RUNS" DATA="$DATA" \
        FASHION_MNIST="$BATS_FILE_TMPDIR/archives" FashionMNIST_CONVERT='--holdout 0.1 --seed 1234 --checksum skip' "$@"
}

spoil_a_copy() { # from here on this test has files of its own; the archives' name is an option
    cp -a "$RUNS" "$DATA" .
    ln -s "$BATS_FILE_TMPDIR/archives" .
    RUNS=$PWD/runs DATA=$PWD/data
    NET=$RUNS/FashionMNIST/resS
}

# The stages that make would run, one a line, without the runs directory.
would_run() {
    mk -n demo-stages "$@" >would_run
    sed -n "s|.*pipelines/stage \([^ ]*\) .*|\1|p" would_run | products
}

products() { sed "s|^$RUNS/||; s|^$DATA/|data/|" | LC_ALL=C sort; }

# stages SUFFIX...: these products of all four pruned networks, one a line.
stages() {
    local id suffix
    for id in erk lamp search-0 uniform; do
        for suffix; do
            echo "FashionMNIST/resS/weight-0.1/$id/$suffix"
        done
    done
}

# every_stage [PATTERN]: those that match of the demo's stages, one a line.
every_stage() {
    {
        printf '%s\n' data/FashionMNIST/manifest.json FashionMNIST/resS/{pretrain.nn,layers.json,eval.json}
        stages strategy.json planned.nn hydra/seed-1/{prune.nn,finetune.nn,eval.json}
        printf '%s\n' FashionMNIST/resS/weight-0.1/search-0/best.nn demo/weight/{table.txt,strategies.svg}
    } | grep -E "${1-.}" | LC_ALL=C sort
}

# One input of every kind, and the stages that follow from it.
input_kinds() {
    cat <<'K'
archives/train-images-idx3-ubyte.gz                            .
data/FashionMNIST/manifest.json                                ^(FashionMNIST|demo)/
runs/FashionMNIST/resS/pretrain.nn                             layers.json|resS/eval.json|weight
runs/FashionMNIST/resS/layers.json                             /search-0/|demo/
runs/FashionMNIST/resS/eval.json                               table
runs/FashionMNIST/resS/weight-0.1/search-0/strategy.json       search-0/(planned|hydra|best)|demo/
runs/FashionMNIST/resS/weight-0.1/erk/strategy.json            erk/(planned|hydra)|demo/
runs/FashionMNIST/resS/weight-0.1/erk/planned.nn               erk/hydra|table
runs/FashionMNIST/resS/weight-0.1/erk/hydra/seed-1/prune.nn    erk/hydra.*(finetune|eval)|table
runs/FashionMNIST/resS/weight-0.1/erk/hydra/seed-1/finetune.nn erk/hydra.*eval|table
runs/FashionMNIST/resS/weight-0.1/erk/hydra/seed-1/eval.json   table
K
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

@test "demo: clean accuracy is measured on all test images, the attacks on as many as asked" {
    run awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        { print $col["clean_images"], $col["fgsm_images"], $col["pgd20_images"], $col["cw_images"] }' \
        "$RUNS/demo/weight/table.csv"
    assert_equal "$(sort -u <<<"$output")" "1000 50 50 50"
}

@test "demo: the four pruned networks meet the same budget, a tenth of the weights" {
    # 1 % is maskapply's tolerance; below, a search may leave some of the budget unspent.
    run awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        $col["reg"] != "" { n++; d = $col["density"]; if (d > 0.101 || d < 0.09) print $3, d }
        END { print n, "networks" }' "$RUNS/demo/weight/table.csv"
    assert_output "4 networks"
}

@test "demo: the best strategy is there as a masked network, and make publish-strategies makes it one of many" {
    local search=$NET/weight-0.1/search-0
    need_python json
    maskapply -q -r weight -s "$search/strategy.json" "$NET/pretrain.nn" | adveval -q -d "$DATA/FashionMNIST/test.tfrecord" \
        --attacks clean - | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["attacks"])' >piped
    adveval -q -d "$DATA/FashionMNIST/test.tfrecord" --attacks clean "$search/best.nn" |
        "$PYTHON" -c 'import json, sys; j = json.load(sys.stdin); assert 0.09 < j["pruning"]["density"] <= 0.1; print(j["attacks"])' >best
    cmp piped best
    mk -o all publish-strategies STRATEGIES="$PWD/pub" >log 2>&1 || { cat log; false; }
    cp pub/FashionMNIST.json before.json
    mk -o all publish-strategies STRATEGIES="$PWD/pub"
    cmp pub/FashionMNIST.json before.json
    maskapply -q --plan -r weight -s pub/FashionMNIST.json:resS/weight/01_0 --strategy-out out.json -o /dev/null "$NET/pretrain.nn"
    maskapply -q --plan -r weight -s "$search/strategy.json" --strategy-out want.json -o /dev/null "$NET/pretrain.nn"
    assert_equal "$(grep -A12 rates out.json)" "$(grep -A12 rates want.json)"
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

@test "demo: another eps reruns everything but the data" {
    assert_equal "$(would_run FashionMNIST_ATTACK='--eps 0.2 --step 0.025')" "$(every_stage '^(FashionMNIST|demo)/')"
}

@test "demo: a second search seed runs its own stages, and the table and the plot that show it" {
    local own=FashionMNIST/resS/weight-0.1/search-1
    assert_equal "$(would_run DEMO_IDS='uniform search-0 search-1 erk lamp')" "$(printf '%s\n' \
        $own/best.nn $own/hydra/seed-1/{eval.json,finetune.nn,prune.nn} $own/{planned.nn,strategy.json} demo/weight/{strategies.svg,table.txt})"
}

@test "demo: a tool that was touched or built again reruns nothing" {
    mkdir -p b/bin
    cp "$BIN"/* b/bin # newer than every product
    assert_equal "$(would_run TOOLS_READY= BUILD="$PWD/b")" ""
    assert_file_contains would_run "b/bin/advtrain" # which shows that make looked at the tools
    echo >>b/bin/advtrain
    assert_equal "$(would_run BUILD="$PWD/b")" ""
}

@test "demo: an input of any kind that is touched but not changed reruns nothing, and status says done" {
    local file
    spoil_a_copy
    while read -r file _; do
        touch "$file"
        assert_equal "$file: $(would_run)" "$file: "
    done < <(input_kinds)
    run mk demo-stages
    assert_output "make: Nothing to be done for 'demo-stages'."
    run mk status
    assert_equal "$(grep -c ^done <<<"$output")" "$(every_stage | wc -l)"
    # a copy whose times are in another order
    cp -r runs again
    RUNS=$PWD/again
    find again -type f -name '*.nn' -exec touch -d '1 hour' {} +
    assert_equal "$(would_run)" ""
}

@test "demo: one byte changed in an input of any kind reruns what follows from it and nothing else" {
    local file pattern last
    spoil_a_copy
    while read -r file pattern; do
        cp -p "$file" keep
        last=$(tail -c 1 "$file" | od -An -t u1)
        truncate -s -1 "$file"
        printf "\\$(printf %o $((last ^ 1)))" >>"$file"
        touch -d '1 year ago' "$file"
        assert_equal "$file $(would_run)" "$file $(every_stage "$pattern")"
        mv keep "$file"
    done < <(input_kinds)
    assert_equal "$(would_run)" ""
}

@test "demo: where a stage that runs again makes the same bytes, what follows is not made again" {
    spoil_a_copy
    touch mark
    rm "$NET/weight-0.1/erk/strategy.json"
    mk demo-stages >log 2>&1 || { cat log; false; }
    assert_equal "$(find "$RUNS" -newer mark -name '*.nn' -o -newer mark -name '*.json')" "$NET/weight-0.1/erk/strategy.json"
    assert_equal "$(grep -c "nothing to do" log)" "$(every_stage 'erk/(planned|hydra)|demo/' | wc -l)"
}

@test "demo: another option for the search reruns the searched strategy only" {
    run would_run FashionMNIST_SEARCH='--warmup 4 --episodes 3'
    assert_output "$(stages strategy.json best.nn planned.nn hydra/seed-1/{prune.nn,finetune.nn,eval.json} | grep search-0 |
        LC_ALL=C sort; printf '%s\n' demo/weight/strategies.svg demo/weight/table.txt)"
}

@test "demo: another set of attacks measures again and trains nothing" {
    run would_run FashionMNIST_EVAL='--attacks clean,fgsm --limit 50'
    assert_output "$(echo FashionMNIST/resS/eval.json; stages hydra/seed-1/eval.json; echo demo/weight/table.txt)"
}

@test "demo: the number of threads is no option of a stage" {
    assert_equal "$(would_run THREADS=7)" ""
}

@test "demo: for a product that was removed make -n tells the stage and what follows" {
    spoil_a_copy
    rm "$NET/weight-0.1/erk/hydra/seed-1/prune.nn"
    assert_equal "$(would_run)" "$(stages hydra/seed-1/{eval.json,finetune.nn,prune.nn} | grep erk/
        echo demo/weight/table.txt)"
}

@test "demo: changed options run the stages that make -n tells and change their products" {
    spoil_a_copy
    local eval='--attacks clean,fgsm --limit 30 --stratified' told
    told=$(would_run FashionMNIST_EVAL="$eval")
    mk demo-stages FashionMNIST_EVAL="$eval" >log 2>&1 || { cat log; false; }
    assert_equal "$(sed -n 's/^>> //p' log | products)" "$told"
    assert_equal "$(head -n 1 "$RUNS/demo/weight/table.csv" | cut -d, -f 13-)" "clean,clean_images,fgsm,fgsm_images"
    run mk demo-stages FashionMNIST_EVAL="$eval"
    assert_output "make: Nothing to be done for 'demo-stages'."
}

@test "demo: two makes in one directory make every stage once; with different options, neither damages what the other made" {
    spoil_a_copy
    cp -a runs two
    networks() { # networks RUNS LR: finetune two networks, measure one
        mk RUNS="$1" THREADS=1 FashionMNIST_FINETUNE="--epochs 2 --lr $2 --limit 128" \
            "$1"/FashionMNIST/resS/weight-0.1/{lamp/hydra/seed-1/finetune.nn,erk/hydra/seed-1/eval.json}
    }
    networks "$RUNS" 0.02 >log1 2>&1 &
    networks "$RUNS" 0.02 >log2 2>&1
    wait $!
    assert_equal "$(cat log1 log2 | grep -Ec '^   [0-9.]+ s$')" 3

    networks "$PWD/two" 0.04 >log1 2>&1 &
    networks "$PWD/two" 0.02 >log2 2>&1
    wait $!
    networks "$PWD/two" 0.02 >log3 2>&1 # what the other's options made last is made again
    assert_same_products "$PWD/two"
}

@test "demo: a damaged checkpoint stops make with the tool's message; the product before stays" {
    spoil_a_copy
    local dir=$NET/weight-0.1/lamp/hydra/seed-1
    truncate -s -1000 "$dir/prune.nn"
    cp "$dir/finetune.nn" before.nn
    run -2 --separate-stderr mk demo-stages
    assert_regex "$stderr" "advtrain: $dir/prune.nn: "
    assert_regex "$stderr" "make: \*\*\* .*$dir/finetune.nn"
    cmp before.nn "$dir/finetune.nn"
    assert_file_contains "$dir/finetune.nn.log" "^status 1 "
    run mk status
    assert_line "failed      $dir/finetune.nn  (log: $dir/finetune.nn.log)"
}

@test "demo: a tool that is not there stops make by name" {
    spoil_a_copy
    rm "$RUNS/demo/weight/table.txt"
    mkdir empty
    run -2 --separate-stderr mk BUILD="$PWD/empty" PATH=/usr/bin:/bin demo-stages
    assert_regex "$stderr" "summarize: not found"
    assert_not_exists "$RUNS/demo/weight/table.txt"
}

@test "demo: status tells done, stale, running, interrupted, failed and missing stages, and where the log is" {
    spoil_a_copy
    local rule=$NET/weight-0.1
    rm "$rule/erk/hydra/seed-1/prune.nn"
    echo >>"$rule/lamp/planned.nn"
    run mk status
    assert_success
    assert_line "done        $NET/pretrain.nn"
    assert_line "missing     $rule/erk/hydra/seed-1/prune.nn  (log: $rule/erk/hydra/seed-1/prune.nn.log)"
    assert_line "stale       $rule/erk/hydra/seed-1/finetune.nn  (log: $rule/erk/hydra/seed-1/finetune.nn.log)"
    assert_line "done        $rule/lamp/planned.nn"
    assert_line "stale       $rule/lamp/hydra/seed-1/prune.nn  (log: $rule/lamp/hydra/seed-1/prune.nn.log)"
    assert_line "done        $rule/uniform/hydra/seed-1/eval.json"
    assert_line "missing     $NET/channel-0.5/search-0/strategy.json"
    # lamp/planned.nn has a byte too many; erk's prune is killed; somebody is at work on uniform's evaluation
    run -2 mk "$rule/lamp/hydra/seed-1/prune.nn"
    HERACLES_CRASH=renamed:1 run -2 mk "$rule/erk/hydra/seed-1/prune.nn"
    rm "$rule/uniform/hydra/seed-1/eval.json"
    exec 8>>"$rule/uniform/hydra/seed-1/eval.json.log"
    flock 8
    run mk status
    assert_line "failed      $rule/lamp/hydra/seed-1/prune.nn  (log: $rule/lamp/hydra/seed-1/prune.nn.log)"
    assert_line "interrupted $rule/erk/hydra/seed-1/prune.nn  (log: $rule/erk/hydra/seed-1/prune.nn.log)"
    assert_line "running     $rule/uniform/hydra/seed-1/eval.json  (log: $rule/uniform/hydra/seed-1/eval.json.log)"
    assert_line "stale       $rule/lamp/hydra/seed-1/eval.json  (log: $rule/lamp/hydra/seed-1/eval.json.log)"
    exec 8>&-
}

@test "demo: make -j2 demo makes the same bytes as make demo" {
    # -o deps: what installs packages is left out
    mk -j2 -o deps demo RUNS="$PWD/again" DATA="$PWD/data" >log 2>&1 || { cat log; false; }
    assert_same_products "$PWD/again" "$PWD/data"
}

# Every product is byte for byte this file's: all but logs, and OUT.args, which knows times.
assert_same_products() { # assert_same_products RUNS [DATA]
    diff -rq -x '*.log' -x '*.args' -x .started "$RUNS" "$1"
    diff -rq -x '*.log' -x '*.args' "$DATA" "${2-$DATA}"
    [ "$(find "$1" -name '*.nn' -o -name '*.json' -o -name '*.csv' -o -name '*.jsonl' | wc -l)" -gt 30 ]
}

@test "demo: one thread, and Ctrl-C again and again: make goes on and makes the same bytes as two threads at once" {
    local pid status seconds began interrupted=0
    export -f mk
    export DATA
    touch log
    for seconds in 0.3 0.1 0.2 0.5 0.1 0.3; do
        began=$(grep -c '^>> ' log) || true
        # a process group of its own, as in a terminal, with make in front; shells start background jobs with SIGINT ignored
        env --default-signal=INT setsid bash -c 'make() { exec make "$@"; }; mk demo-stages RUNS="$PWD/again" THREADS=1' \
            >>log 2>&1 &
        pid=$!
        until [ "$(grep -c '^>> ' log)" -gt "$began" ] || ! kill -0 $pid; do sleep 0.02; done # a stage has begun
        sleep $seconds
        kill -INT -- -$pid || break # done already
        status=0
        wait $pid || status=$?
        [ "$status" -ne 0 ] || break # done just then
        # make's way: by the signal, after its children; 2 where its handler took a child from under its own wait
        # ("wait: No child processes", make 4.3, once in some hundred)
        [ "$status" -eq 130 ] || assert_equal "$status" 2
        interrupted=$((interrupted + 1))
    done
    [ "$interrupted" -ge 2 ]
    mk demo-stages RUNS="$PWD/again" THREADS=1 >>log 2>&1 || { cat log; false; }
    assert_same_products "$PWD/again"
    # What was finished was not made again. (A signal between a product and its last line in the log leaves it without.)
    run awk '/^>> / { stage = $2 } /^   [0-9.]+ s$/ && done[stage]++ { print stage }' log
    refute_output
    [ "$(grep -c '^   [0-9.]* s$' log)" -ge 20 ]
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
    assert_output --regexp "advtrain 0\.1\.0 --stage pretrain .*--arch resS"
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
    mk plots RUNS="$PWD/nothing" >log 2>&1
    assert_equal "$(grep -v "^  " log)" "no strategies under $PWD/nothing yet"
    # the paper's layout: uniform against searched; the rules are left out
    assert_line_of "$RUNS/compare.txt" '^resS +hydra +0.1 +1 +\| '
    local f
    for f in csv tex xlsx; do assert_exists "$RUNS/compare.$f"; done
    # with published figures beside them
    mkdir sheets
    printf 'arch,method,compressionrate,unioa,R1-oa\nresS,hydra,0.1,70,71\n' >sheets/weight_cifar10.csv
    mk tables PUBLISHED="$PWD/sheets" >log 2>&1
    assert_line_of "$RUNS/compare.txt" 'published'
    # of the logs of others alone, and of nothing pruned
    python3 "$ROOT/test/legacy_logs.py" logs
    mk tables RUNS="$PWD/none" LEGACY="$PWD/logs" >log 2>&1
    assert_line_of none/compare.txt '^wrn_28_4 +radmm +0.1 +1 +\|'
    rm -r "$NET/weight-0.1" "$RUNS"/compare.*
    mk tables >log 2>&1
    assert_not_exists "$RUNS/compare.txt"
    assert_line_of "$NET/table.txt" '^dense'
}

assert_line_of() { # assert_line_of FILE REGEX
    grep -Eq -- "$2" "$1" || { cat "$1"; false; }
}

@test "make verify: all digests are in order, and what was exchanged is found" {
    spoil_a_copy
    run -0 mk verify
    assert_output --regexp "summarize: [0-9]+ products, 4 parts of data sets, [0-9]+ digests: all in order"
    # a network that a record was not measured on
    cp "$NET/weight-0.1/erk/hydra/seed-1/finetune.nn" "$NET/weight-0.1/lamp/hydra/seed-1/finetune.nn"
    run -2 mk verify
    assert_output --partial "lamp/hydra/seed-1/eval.json: was made from other inputs than those that are there"
    assert_output --regexp "lamp/hydra/seed-1/eval.json: measured with the model [0-9a-f]{16}...: nothing here has that digest"
    # a damaged network; other test images, which the manifest knows
    spoil_byte "$NET/weight-0.1/uniform/hydra/seed-1/prune.nn"
    spoil_byte "$DATA/FashionMNIST/test.tfrecord"
    run -2 mk verify
    assert_output --regexp "uniform/hydra/seed-1/prune.nn: "
    assert_output --regexp "test.tfrecord: "
}

spoil_byte() { # one bit in the middle
    python3 -c '
import sys
b = bytearray(open(sys.argv[1], "rb").read())
b[len(b) // 2] ^= 1
open(sys.argv[1], "wb").write(b)' "$1"
}

@test "summarize --history: of any cell, from the archives to the number" {
    local records=("$NET"/eval.json "$NET"/weight-0.1/*/hydra/seed-1/eval.json)
    run -0 summarize --history --cell resS,weight,0.1,searched,pgd20 --manifest "$DATA/FashionMNIST/manifest.json" "${records[@]}"
    assert_equal "$(grep -c '^[^ ].*: search-0$' <<<"$output")" 1
    assert_output --regexp "  pgd20: [0-9.]+ % balanced [0-9.]+ %, [0-9]+ of 50 images"
    local step # commands with their options and seeds, down to the files that were published
    for step in "adveval [0-9.]+ .*--seed 1" "advtrain [0-9.]+ --stage finetune .*--seed 1" "advtrain [0-9.]+ --stage prune" \
        "maskapply [0-9.]+ " "strategy [0-9a-f]{12}: ddpg-search .*--seed 0" "evaluator [0-9a-f]{12}: adveval" \
        "advtrain [0-9.]+ --stage pretrain" "data [0-9a-f]{12} \(FashionMNIST, rest\): tfrec-convert .*--seed 1234" \
        "data [0-9a-f]{12} \(FashionMNIST, holdout\): tfrec-convert" "data [0-9a-f]{12} \(FashionMNIST, test\): tfrec-convert"; do
        assert_line --regexp "$step"
    done
    assert_equal "$(grep -c '(FashionMNIST, test)' <<<"$output")" 1
    # the archives' own digests
    local digest
    digest=$(sha256sum <"$BATS_FILE_TMPDIR/archives/train-images-idx3-ubyte.gz")
    assert_output --partial " ${digest:0:12}"
    run -0 summarize --history --cell uniform "${records[@]}" # every attack of one record
    assert_equal "$(grep -cE '^  (clean|fgsm|pgd20|cw):' <<<"$output")" 4
    run -1 --separate-stderr summarize --history --cell resS,channel "${records[@]}"
    assert_equal "$stderr" "summarize: no record is of the cell 'resS,channel'"
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
