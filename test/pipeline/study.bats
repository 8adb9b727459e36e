# The study at a tiny size: one budget, two seeds, two rules; what it declares, and what its table says.
# bats file_tags=slow
setup() {
    load ../helpers
    BUILD=$(dirname "$BIN")
}

mk() {
    make -C "$ROOT" --no-print-directory ${SIZE-DEMO_SIZE=tiny} BUILD="$BUILD" TOOLS_READY=1 PDFLATEX= RUNS="$PWD/runs" DATA="$PWD/data" "$@"
}

@test "study: every budget and seed has a search, a random search of as many evaluations and the rules, short and long" {
    mkdir -p data/FashionMNIST
    run mk -n study-stages STUDY_BUDGETS='weight-0.03 channel-0.5' STUDY_SEEDS='1 2' STUDY_RULES='uniform erk'
    assert_success
    local id stage
    for id in search-1 search-2 random-1 random-2; do
        assert_equal "$(grep -c "stage $PWD/runs/FashionMNIST/resS/weight-0.03/$id/strategy.json" <<<"$output")" 1
    done
    for stage in {uniform,erk}/hydra/{seed,long}-{1,2} {search,random}-1/hydra/{seed,long}-1 {search,random}-2/hydra/{seed,long}-2; do
        assert_equal "$(grep -c "stage $PWD/runs/FashionMNIST/resS/channel-0.5/$stage/eval.json" <<<"$output")" 1
    done
    refute_output --partial "search-1/hydra/seed-2"
    # nothing of it without being asked
    run mk -n status
    refute_output --partial "random-1"
    run mk status
    refute_output --partial "random-1"
}

@test "fmnist: five searches and the rules for every budget, with every image, and a table and a figure for each" {
    mkdir -p data/FashionMNIST
    SIZE='' run mk -n fmnist FMNIST_BUDGETS='weight-0.1 channel-0.1'
    assert_success
    local budget id
    for budget in weight-0.1 channel-0.1; do
        for id in search-{0,1,2,3,4} uniform uniform+ erk lamp global; do
            assert_equal "$(grep -c "stage $PWD/runs/fmnist/FashionMNIST/resS/$budget/$id/hydra/seed-1/eval.json" <<<"$output")" 1
        done
        assert_output --partial "stage $PWD/runs/fmnist/$budget/table.txt"
        assert_output --partial "stage $PWD/runs/fmnist/$budget/strategies.svg"
    done
    refute_output --partial "--limit"
    # the searches begin with what the rules say
    assert_output --partial "--start $PWD/runs/fmnist/FashionMNIST/resS/channel-0.1/lamp/strategy.json"
}

@test "study: the table has mean and deviation over seeds, and says who is best" {
    local dir=runs/FashionMNIST/resS/weight-0.1
    record() { # record ID RUN CLEAN ROBUST
        mkdir -p "$dir/$1/hydra/$2"
        cat >"$dir/$1/hydra/$2/eval.json" <<E2
{"record":"eval","version":1,"model":{"arch":"resS","digest":"$(printf '%064d' $RANDOM)","params":77072,"label":"$1"},"pruning":{"reg":"weight","strategy":"$1","rate":0.1,"density":0.1,"budget":{"inout":0.1,"masked":0.1,"macs":0.1}},"data":{"name":"F","images":10000,"digest":"$(printf '%064d' 1)"},"attacks":[{"name":"clean","images":10000,"correct":$(($3 * 100)),"accuracy":$3,"balanced":$3},{"name":"pgd20","loss":"ce","eps":0.1,"step":0.025,"steps":20,"restarts":1,"images":10000,"correct":$(($4 * 100)),"accuracy":$4,"balanced":$4}],"history":{}}
E2
    }
    record search-1 seed-1 76 60
    record search-2 seed-2 78 62
    record erk seed-1 75 60
    record erk seed-2 75 60
    record uniform long-1 70 50
    run "$ROOT/pipelines/study-table" runs/FashionMNIST/resS weight-0.1 channel-0.5
    assert_success
    assert_line --regexp '^    search +2 +77.00 \+- 1.41 +61.00 \+- 1.41 +138.00 \+- 2.83 +\*$'
    assert_line --regexp '^    erk +2 +75.00 \+- 0.00 +60.00 \+- 0.00 +135.00 \+- 0.00'
    assert_line "    best: search, by 3.00 before erk"
    assert_line --regexp '^    uniform +1 +70.00 +50.00 +120.00'
    record erk seed-2 78 62
    run "$ROOT/pipelines/study-table" runs/FashionMNIST/resS weight-0.1
    assert_line "    best: search, by 0.50 before erk, which is within the deviation"
}
