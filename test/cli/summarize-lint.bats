# summarize --lint: each rule has records that break that rule alone, and records in order break none.
setup() {
    load ../helpers
    SHEETS=${REFERENCE:-$ROOT/../shared/reference}/results
}

# lint CHANGE [OPTION]...: two networks' records, sound but for what the Python statement CHANGE does to them
# (a: uniform, b: search-0; A(r, name): an attack of record r; H(r): the history of its network)
lint() {
    python3 - "$1" >r.json <<'EOF'
import json, sys
def record(i, strategy, clean, fgsm, pgd10, pgd20, cw, aa):
    attacks = []
    for name, steps, value in (("clean", 0, clean), ("fgsm", 1, fgsm), ("pgd10", 10, pgd10), ("pgd20", 20, pgd20),
                               ("cw", 20, cw), ("aa", 100, aa)):
        x = dict(name=name, images=1000, correct=value, accuracy=value / 10, balanced=value / 10)
        if steps:
            x.update(eps=0.1, step=0.02, steps=steps, restarts=1)
        attacks.append(x)
    digest = "%064x" % i
    made = dict(tool="advtrain", options={}, inputs=[dict(role="data", sha256="%064x" % 77)])
    return dict(record="eval", version=1, model=dict(arch="resS", digest=digest, params=100, label=strategy),
                pruning=dict(reg="weight", strategy=strategy, rate=0.1, density=0.1,
                             budget=dict(inout=.1, masked=.1, macs=.2)),
                data=dict(name="D", images=1000, digest="%064x" % 99), attacks=attacks,
                history=dict(tool="adveval", options={}, inputs=[dict(role="model", sha256=digest, history=made),
                                                                  dict(role="data", sha256="%064x" % 99)]))
def A(r, name):
    return next(x for x in r["attacks"] if x["name"] == name)
def put(r, name, correct):
    A(r, name).update(correct=correct, accuracy=correct / 10, balanced=correct / 10)
def H(r):
    return r["history"]["inputs"][0]["history"]
a, b = record(1, "uniform:0.1", 800, 600, 550, 545, 540, 500), record(2, "search-0", 810, 610, 560, 555, 550, 510)
exec(sys.argv[1])
print(json.dumps(a))
print(json.dumps(b))
EOF
    shift
    run --separate-stderr summarize --lint "$@" r.json
}

found() { # found RULE...: those are the findings, in any order, and the status says so
    assert_equal "$(cut -d: -f1 <<<"$output" | sort | tr '\n' ' ')" "$(printf '%s\n' "$@" | sort | tr '\n' ' ')"
    assert_equal "$status" 1
    assert_equal "$stderr" "summarize: $# finding$([ $# = 1 ] || echo s)"
}

@test "summarize --lint: records in order pass, also those that differ by chance" {
    lint 'pass' --claim 1
    assert_success
    assert_equal "$output$stderr" ""
    lint 'put(a, "pgd20", 560)' # one point above PGD-10, whose interval is 3 points wide
    assert_success
}

@test "summarize --lint: attacks out of order beyond the interval" {
    lint 'put(a, "aa", 574)'
    found order
    assert_output "order: r.json: line 1: uniform:0.1: aa leaves 57.40, the weaker cw 54.00 +- 3.09"
    lint 'put(b, "pgd20", 595)' # above PGD-10 by more than its interval, not above FGSM
    found order
    assert_output "order: r.json: line 2: search-0: pgd20 leaves 59.50, the weaker pgd10 56.00 +- 3.08"
}

@test "summarize --lint: logs that hold only balanced accuracies are held to the same rules" {
    local at=logs/vgg16_bn/svhn_weight_010_0/finetune
    mkdir -p "$at"
    log() { # CLEAN FGSM PGD CW
        local by="BALANCED ACC: Benign validation accuracy: $1, Adversarial validation accuracy by"
        printf '%s\n' "$by FGSM: $2" "$by PGD: $3" "$by CW: $4" >"$at/eval_advs.log"
        run --separate-stderr summarize --lint --legacy logs
    }
    log 88 60 50 49
    assert_success
    assert_equal "$output$stderr" ""
    log 88 60 65 49
    found order
    assert_output --partial "pgd20 leaves 65.00, the weaker fgsm 60.00 +- 0.96" # 196 * sqrt(.6 * .4 / 10000)
    log 10 10 10 10
    found collapsed
    assert_output --partial "10.00 clean, and no attack leaves less"
}

@test "summarize --lint: a network that says the same to everything" {
    lint 'for x in b["attacks"]: put(b, x["name"], 100)'
    found collapsed
    assert_output --partial "search-0: 10.00 clean, and no attack leaves less"
}

@test "summarize --lint: a budget that is not met, by weights and by channels" {
    lint 'b["pruning"]["density"] = b["pruning"]["budget"]["masked"] = 0.102'
    found budget
    lint 'for r in a, b: r["pruning"]["reg"] = "channel"
b["pruning"]["budget"]["inout"] = 0.102'
    found budget
    lint 'for r in a, b: r["pruning"]["reg"] = "channel"
b["pruning"]["budget"]["inout"] = 0.09; b["pruning"]["density"] = b["pruning"]["budget"]["masked"] = 0.3'
    assert_success # fewer parameters with more channels: what is searched for
}

@test "summarize --lint: one column with different eps or numbers of images" {
    lint 'A(b, "pgd20")["eps"] = 0.05'
    found mixed
    lint 'A(b, "pgd20").update(images=500, correct=278, accuracy=55.6, balanced=55.6)'
    found mixed
    lint 'A(a, "aa")["queries"] = 5000; A(b, "aa")["queries"] = 100'
    found mixed
    assert_output "mixed: r.json: line 2: aa with eps 0.1, step 0.02, 100 steps, 100 queries, 1000 images; r.json: line 1 with eps 0.1, step 0.02, 100 steps, 5000 queries, 1000 images"
    # against the first record that has the attack, also where that is not the first record
    lint 'import copy; c = copy.deepcopy(a); c["attacks"] = c["attacks"][:1]; print(json.dumps(c)); A(b, "aa")["eps"] = 0.05'
    found mixed
    assert_output --partial "mixed: r.json: line 3: aa with eps 0.05"
}

@test "summarize --lint: another data set has its own eps and numbers of images" {
    lint 'b["data"].update(name="E", images=500); A(b, "clean").update(images=500, correct=405)
for x in b["attacks"][1:]: x["eps"] = 0.05'
    assert_success
    assert_equal "$output$stderr" ""
}

@test "summarize --lint: one image of many is by chance also where nothing is left" {
    lint 'for x in b["attacks"][1:]: put(b, x["name"], 0)
put(b, "pgd20", 1)'
    assert_success
    lint 'for x in b["attacks"][1:]: put(b, x["name"], 0)
put(b, "pgd20", 5)'
    assert_equal "$(cut -d: -f1 <<<"$output" | sort -u)" order
}

@test "summarize --lint: fewer strategies than claimed" {
    lint 'pass' --claim 5
    found claim
    assert_output "claim: r.json: line 2: search-0: 1 searched strategies of resS weight 0.1, 5 are claimed"
    lint 'b["pruning"]["strategy"] = "erk"' --claim 5 # none at all
    found claim
    assert_output "claim: r.json: line 1: uniform:0.1: 0 searched strategies of resS weight 0.1, 5 are claimed"
    run -2 --separate-stderr summarize --claim 5 r.json
    # a third record is another strategy, the same one again, the same network under another name, or of another method
    local third='import copy; c = copy.deepcopy(b); c["model"]["digest"] = c["history"]["inputs"][0]["sha256"] = "%064x" % 3
c["pruning"]["strategy"] = "search-1"; print(json.dumps(c))'
    lint "$third" --claim 2
    assert_success
    lint "${third/search-1/search-0}" --claim 2
    found claim
    lint "${third/'% 3'/'% 2'}" --claim 2
    found claim
    lint "H(a)['options'] = H(b)['options'] = dict(stage='prune'); ${third/'; print'/'; H(c)["options"] = dict(stage="admm"); print'}" --claim 2
    found claim claim
}

@test "summarize --lint: a network that was trained on, or selected by, the images it is measured on" {
    lint 'H(b)["inputs"].append(dict(role="probe", sha256=b["data"]["digest"]))'
    found "test set"
    assert_output --partial "search-0: advtrain had the images of D among its inputs"
}

@test "summarize --lint: a checkpoint that is another one than was measured" {
    load ../fashion
    fashion . 40 20
    advtrain -q --threads 1 --arch resS -d train.tfrecord --loss natural --epochs 1 --batch 20 -o net.nn
    adveval -q --threads 1 -d test.tfrecord --attacks clean -o r.json net.nn
    run -0 summarize --lint --checkpoint net.nn r.json
    maskapply -q -s uniform:0.5 -r weight -o other.nn net.nn
    run --separate-stderr summarize --lint --checkpoint net.nn --checkpoint other.nn r.json
    assert_equal "$status" 1
    assert_output --regexp "^digest: other.nn: is [0-9a-f]{16}..., which no record measured$"
    assert_equal "$stderr" "summarize: 1 finding"
    run -1 --separate-stderr summarize --lint --checkpoint missing.nn r.json
    run -2 summarize --checkpoint net.nn r.json
}

@test "summarize --lint: the best epoch chosen by the test images, all or some of them; and a strategy so" {
    load ../fashion
    fashion . 40 60
    local o="-q --threads 1 --batch 20 --lr 0.01 --eps 0.1 --step 0.05 --steps 1" only
    mv test.tfrecord all.tfrecord && mkdir t && mv all.tfrecord t/test.tfrecord
    for only in 0 20; do # 0: all
        advtrain $o --stage pretrain --arch resS -d train.tfrecord --epochs 1 --select best --eval t/test.tfrecord \
            --eval-limit $only -o net.nn
        adveval -q --threads 1 -d t/test.tfrecord --attacks clean -o r.json net.nn
        run --separate-stderr summarize --lint r.json
        assert_output --regexp "^test set: r.json: line 1: dense: advtrain had the images of test among its inputs$"
        assert_equal "$stderr" "summarize: 1 finding"
    done
    # chosen by others, and without a choice
    advtrain $o --stage pretrain --arch resS -d t/test.tfrecord --limit 20 --epochs 1 --select best --eval train.tfrecord -o net.nn
    adveval -q --threads 1 -d train.tfrecord --attacks clean -o r.json net.nn
    run -1 --separate-stderr summarize --lint r.json
    assert_output --partial "test set: "
    advtrain $o --stage pretrain --arch resS -d train.tfrecord --epochs 1 --eval t/test.tfrecord -o net.nn
    adveval -q --threads 1 -d t/test.tfrecord --attacks clean -o r.json net.nn
    run -0 summarize --lint r.json
    # a search that was rewarded on some of the test images
    nninfo --format json -o layers.json net.nn
    ddpg-search -q --layers layers.json --target 0.3 --warmup 1 --episodes 1 --id search-0 --csv-dir . -o s.json \
        -e "adveval --serve --threads 1 -d t/test.tfrecord --limit 20 --steps 1 net.nn"
    maskapply -q -s s.json --target 0.3 -o pruned.nn net.nn
    adveval -q --threads 1 -d t/test.tfrecord --attacks clean -o r.json pruned.nn
    run -1 --separate-stderr summarize --lint r.json
    assert_output --regexp "^test set: r.json: line 1: search-0: adveval had the images of test among its inputs$"
}

@test "summarize --lint: another network than its history is of" {
    lint 'b["model"]["digest"] = "ab" * 32'
    found digest
}

@test "summarize --lint: a sheet's wrong means and deviations, collapsed networks and attacks out of order" {
    # sheet ROW-CHANGE: a sheet of one network whose five searched strategies have a deviation of sqrt(2.5) everywhere
    sheet() {
        python3 - "$1" >x_weight_cifar10.csv <<'EOF'
import csv, statistics, sys
attacks, own = ["oa", "fgsm", "pgd10", "pgd20", "cw"], ["oa", "fgsm", "pgdone", "pgdtwo", "cw"]
uniform = dict(zip(own, [70, 50, 42, 41, 40]))
R = [{a: v + i for a, v in zip(attacks, [72, 52, 44, 43, 42])} for i in range(5)]
mean = {o: "\\B %.2f" % statistics.mean(r[a] for r in R) for a, o in zip(attacks, own)}
std = {o: round(statistics.stdev(r[a] for r in R), 6) for a, o in zip(attacks, own)}
exec(sys.argv[1])
head = ["arch", "method", "compressionrate"] + ["uni" + o for o in own] + \
    ["R%d-%s" % (i + 1, a) for i in range(5) for a in attacks] + own + [o + "var" for o in own]
out = csv.writer(sys.stdout, lineterminator="\n")
out.writerow(head)
out.writerow(["vgg", "radmms", 0.1, *uniform.values(), *(v for r in R for v in r.values()), *mean.values(), *std.values()])
out.writerow(["conf:margin", "", 0.5] + [""] * (len(head) - 3))
EOF
        run --separate-stderr summarize --lint --sheet x_weight_cifar10.csv
    }
    sheet 'pass'
    assert_success
    assert_equal "$output$stderr" ""
    sheet 'std["fgsm"] = round(statistics.stdev(r["fgsm"] for r in [R[1], R[2], R[2], R[3], R[4]]), 6)' # R1 left out
    assert_equal "$status" 1
    assert_output "x_weight_cifar10.csv: line 2: vgg16_bn radmm 0.1: the sheet's deviation of fgsm is 1.14, that of its 5 runs 1.58"
    summarize --compare --sheet x_weight_cifar10.csv 2>/dev/null >t.txt
    assert_file_contains t.txt '54.00 +- 1.58'
    sheet 'mean["oa"] = "74.01"'
    assert_output --partial "the sheet's mean oa is 74.01, that of its 5 runs 74.00"
    assert_equal "${#lines[@]}" 1
    sheet 'uniform = dict.fromkeys(own, 10)'
    assert_output --partial "uniform has collapsed: 10.00 natural, 10.00 under PGD-20"
    assert_equal "${#lines[@]}" 1
    sheet 'uniform["pgdtwo"] = 51'
    assert_output --partial "uniform: PGD-20 leaves 51.00, FGSM 50.00, PGD-10 42.00"
    assert_equal "${#lines[@]}" 1
}

@test "summarize --lint: the published raw results: known rows, no others" {
    [ -e "$SHEETS/adveval_weight_cifar10.csv" ] || skip "no published results"
    local s sheets=()
    for s in "$SHEETS"/*.csv; do sheets+=(--sheet "$s"); done
    run --separate-stderr summarize --lint "${sheets[@]}"
    assert_equal "$status" 1
    assert_equal "$stderr" "summarize: 39 findings"
    assert_equal "$(grep -c "deviation of" <<<"$output")" 20 # vgg16_bn radmm at the higher rate, five attacks, four sheets
    assert_equal "$(grep -c "collapsed" <<<"$output")" 17
    assert_equal "$(grep -c "ResNet50 radmm 0.5: .*PGD-20 leaves" <<<"$output")" 2
}
