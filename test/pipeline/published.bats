# test/pipeline/published.bats -- the published experiments: what make says of them, and one of each method at a tiny size.
# bats file_tags=slow

setup() {
    load ../helpers
    load ../archives
    mkdir archives strategies
    export BUILD=${BIN%/bin}
    mk() { # mk ARGUMENT...
        make -C "$ROOT" --no-print-directory BUILD="$BUILD" TOOLS_READY=1 PDFLATEX= RUNS="$PWD/runs" DATA="$PWD/data" \
            ARCHIVES="$PWD/archives" MODELS="$PWD/models" CHECKSUM=skip STRATEGIES="$PWD/strategies" "$@"
    }
    stages() { sed -n "s|.*pipelines/stage $PWD/\([^ ]*\) .*|\1|p"; }
}

# The entries weight/001_0 of a network, with uniform rates.
entry() { # entry ARCH RATE INPUT
    "$BUILD/test/mknn" "$1$3" 1 - | maskapply -q --plan -s "uniform:$2" --label 001_0 --strategy-out strategies/CIFAR10.json -o /dev/null -
}

@test "make -n shows every stage of a published experiment; a strategy that is in no file is searched for" {
    local net=runs/CIFAR10/resnet18 at=runs/CIFAR10/resnet18/weight-0.01/001_0
    entry resnet18 0.01 ""
    mk -n "$PWD/$at/hydra/seed-0/eval.json" >hydra.txt
    assert_equal "$(stages <hydra.txt)" "data/CIFAR10/manifest.json
$net/pretrain.nn
$at/strategy.json
$at/planned.nn
$at/hydra/seed-0/prune.nn
$at/hydra/seed-0/finetune.nn
$at/hydra/seed-0/eval.json"
    grep -q "stage prune .*--reference hydra .*--epochs 20 --lr 0.1 --seed 0 " hydra.txt
    assert_equal "$(mk -n "$PWD/$at/radmm/seed-3/eval.json" | stages | tail -n 4)" "$at/radmm/seed-3/admm.nn
$at/radmm/seed-3/masked.nn
$at/radmm/seed-3/retrain.nn
$at/radmm/seed-3/eval.json"
    run ! grep -q ddpg-search hydra.txt
    mk -n "$PWD/runs/SVHN/vgg16_bn/channel-0.5/05_77/hydra/seed-0/eval.json" >search.txt
    grep -q "ddpg-search .*--reg channel --target 0.5 --seed 77 --id 05_77" search.txt
    mk -n "$PWD/runs/ImageNet/ResNet50/weight-0.1/lamp/hydra/seed-0/eval.json" | grep -q "loss free --repeats 4"
    # a checkout of the published strategies: ImageNet goes by another name there
    mkdir strategies/heracles
    mv strategies/CIFAR10.json strategies/heracles/imagenet.json
    mk -n "$PWD/runs/ImageNet/resnet18/weight-0.01/001_0/hydra/seed-0/eval.json" >theirs.txt
    grep -q -- "-s $PWD/strategies/heracles/imagenet.json:resnet18/weight/001_0 " theirs.txt
    run ! grep -q ddpg-search theirs.txt
    mv strategies/heracles/imagenet.json strategies/heracles/CIFAR10.json
    # image channels are pruned where the ID says so, in every stage that reads a strategy
    mk -n "$PWD/runs/SVHN/wrn_28_4/channel-0.5/05_0_all/radmm/seed-0/eval.json" >all.txt
    assert_equal "$(grep -c "maskapply .*--over-budget warn --prune-first " all.txt)" 2
    run ! grep -q -- --prune-first theirs.txt
    # what comes before the pruning, by itself
    assert_equal "$(mk -n "$PWD/$net/pretrain.nn" | stages | tail -n 1)" "$net/pretrain.nn"
    assert_equal "$(mk -n "$PWD/$at/strategy.json" | stages | tail -n 1)" "$at/strategy.json"
    assert_equal "$(mk -n "$PWD/$at/planned.nn" | stages | tail -n 2)" "$at/strategy.json
$at/planned.nn"
}

@test "the dense network of a published experiment is the published one, when it is there" {
    local net=$PWD/runs/CIFAR10/resS
    archive cifar10-binary archives/cifar-10-binary.tar.gz 250 60
    mkdir -p models/CIFAR10
    "$BUILD/test/mknn" resS:3x32x32 1 models/CIFAR10/resS.nn
    mk -n "$net/pretrain.nn" >plan.txt
    run ! grep -q "advtrain\|torch-models.zip" plan.txt
    mk "$net/layers.json" "$net/pretrain.nn"
    cmp models/CIFAR10/resS.nn "$net/pretrain.nn"
    assert_equal "$(mk -n "$net/pretrain.nn" | stages)" ""
    # it is trained where there is none
    rm models/CIFAR10/resS.nn
    assert_equal "$(mk -n "$net/pretrain.nn" | stages | tail -n 1)" runs/CIFAR10/resS/pretrain.nn
}

@test "a strategy that costs more than it claims is used with a warning by its name" {
    entry resS 0.3 :3x32x32
    sed -i 's/001_0/001_9/' strategies/CIFAR10.json
    "$BUILD/test/mknn" resS:3x32x32 1 net.nn
    local what="strategies/CIFAR10.json:resS/weight/001_9"
    python3 - <<'PY'
import json
rates = json.load(open("strategies/CIFAR10.json"))["resS"]["weight"]["001_9"]["rates"]
json.dump({"resS": {"weight": {"001_9": rates}}}, open("strategies/CIFAR10.json", "w"))
PY
    run --separate-stderr maskapply -q --plan -s $what -o out.nn net.nn
    assert_refused out.nn
    run --separate-stderr maskapply -q --plan -s $what --over-budget warn -o out.nn net.nn
    assert_success
    assert_regex "$stderr" "001_9 costs 0.3.*it claims 0.01"
    # whoever states the budget means it
    run --separate-stderr maskapply -q --plan -s $what --target 0.01 --over-budget warn -o out2.nn net.nn
    assert_refused out2.nn
}

@test "the chains of HYDRA and of R-ADMM run on a small archive of CIFAR-10's format" {
    local tiny=(CIFAR10_PRETRAIN='--epochs 1 --lr 0.1 --limit 32 --batch 16 --steps 1'
        CIFAR10_PRUNE='--epochs 1 --lr 0.1 --limit 32 --batch 16 --steps 1' CIFAR10_FINETUNE='--epochs 1 --lr 0.01 --limit 32 --batch 16 --steps 1'
        CIFAR10_ADMM='--epochs 1 --lr 0.01 --limit 32 --batch 16 --steps 1' CIFAR10_RETRAIN='--epochs 1 --lr 0.01 --limit 32 --batch 16 --steps 1'
        CIFAR10_SEARCH='--warmup 2 --episodes 1' CIFAR10_REWARD='--steps 1 --limit 20 --batch 10' CIFAR10_EVAL='--attacks clean,fgsm --limit 20')
    archive cifar10-binary archives/cifar-10-binary.tar.gz 250 60
    entry resS 0.3 :3x32x32
    local at=$PWD/runs/CIFAR10/resS
    mk "${tiny[@]}" "$at/weight-0.01/001_0/hydra/seed-0/eval.json" "$at/channel-0.5/05_3/radmm/seed-1/eval.json" >out.txt 2>&1 || { cat out.txt; false; }
    summarize "$at"/*/*/*/*/eval.json >table.txt
    assert_equal "$(grep -c . "$at"/channel-0.5/05_3/Episode_wise_Rewards.csv)" 4
    run nninfo --history "$at/channel-0.5/05_3/radmm/seed-1/retrain.nn"
    assert_output --partial admm
    # nothing is left to do
    assert_equal "$(mk "${tiny[@]}" -n "$at/weight-0.01/001_0/hydra/seed-0/eval.json" "$at/channel-0.5/05_3/radmm/seed-1/eval.json" | stages)" ""
}
