# adveval: one record per network, the same whatever the batch size and threads, and consistent with itself.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 1000 300
}

setup() {
    load ../helpers
    load ../fashion
    D=$BATS_FILE_TMPDIR
    EPS="--eps 0.1 --step 0.025"
}

@test "adveval: the record has the promised fields, and the attacks are ordered as theory orders them" {
    run --separate-stderr adveval -q -d "$D/test.tfrecord" $EPS --limit 100 --stratified \
        --attacks clean,fgsm,pgd10,cw10 --label dense-1 -o eval.json "$D/net.nn"
    assert_success
    assert_equal "$output$stderr" ""
    assert_equal "$(pick eval.json '(len(l), j["record"], j["version"], j["pruning"], *j)')" \
        "(1, 'eval', 1, None, 'record', 'version', 'model', 'pruning', 'data', 'attacks', 'history')"
    assert_equal "$(pick eval.json '(j["model"]["arch"], j["model"]["params"], j["model"]["label"])')" \
        "('resS', 77754, 'dense-1')"
    assert_equal "$(pick eval.json '(j["data"]["name"], j["data"]["images"])')" "('test', 300)"
    assert_equal "$(pick eval.json '[(a["name"], a["images"]) for a in j["attacks"]]')" \
        "[('clean', 300), ('fgsm', 100), ('pgd10', 100), ('cw10', 100)]"
    assert_equal "$(pick eval.json 'all(abs(a["accuracy"] - 100 * a["correct"] / a["images"]) < 1e-9 for a in j["attacks"])')" True
    assert_equal "$(pick eval.json '[(a["loss"], a["eps"], a["step"], a["steps"], a["restarts"]) for a in j["attacks"][1:]]')" \
        "[('ce', 0.1, 0.1, 1, 1), ('ce', 0.1, 0.025, 10, 1), ('margin', 0.1, 0.025, 10, 1)]"
    # an attack lowers the accuracy, and ten steps lower it further than one
    assert_equal "$(pick eval.json '(lambda a: a[0] > a[1] > a[2])([a["accuracy"] for a in j["attacks"]])')" True
    run summarize eval.json
    assert_success
    assert_output --partial dense-1
}

@test "adveval: same bytes for any batch size and any number of threads" {
    local args
    for args in "--threads 1 --batch 100" "--threads 2 --batch 100" "--threads 4 --batch 7" "--threads 1 --batch 512"; do
        adveval -q -d "$D/test.tfrecord" $EPS --limit 60 --attacks clean,pgd3,cw2 $args "$D/net.nn"
    done >eval.json
    assert_equal "$(sort -u eval.json | wc -l)" 1
}

@test "adveval: what else is measured does not change a result; the seed and restarts do" {
    adveval -q -d "$D/test.tfrecord" $EPS --limit 60 --attacks clean,fgsm,pgd3 "$D/net.nn" >all.json
    adveval -q -d "$D/test.tfrecord" $EPS --limit 60 --attacks pgd3 "$D/net.nn" >one.json
    assert_equal "$(pick all.json 'j["attacks"][2]')" "$(pick one.json 'j["attacks"][0]')"
    adveval -q -d "$D/test.tfrecord" $EPS --limit 60 --attacks pgd3 --restarts 4 "$D/net.nn" >more.json
    assert_equal "$(pick more.json 'j["attacks"][0]["correct"]' | xargs -I{} test {} -le "$(pick one.json 'j["attacks"][0]["correct"]')" && echo fewer)" fewer
}

@test "adveval: batch statistics on request, and the record says so" {
    adveval -q -d "$D/test.tfrecord" $EPS --limit 60 --attacks clean,pgd3 --bn batch --batch 50 "$D/net.nn" >batch.json
    assert_equal "$(pick batch.json '[(a["bn"], a["batch"]) for a in j["attacks"]]')" "[('batch', 50), ('batch', 50)]"
    adveval -q -d "$D/test.tfrecord" $EPS --limit 60 --attacks clean,pgd3 "$D/net.nn" >folded.json
    assert_equal "$(pick folded.json '["bn" in a for a in j["attacks"]]')" "[False, False]"
    run -1 cmp -s <(pick batch.json 'j["attacks"][0]["correct"]') <(pick folded.json 'j["attacks"][0]["correct"]')
}

@test "adveval: a pruned network comes through a pipe" {
    maskapply -q -s uniform:0.1 -r channel "$D/net.nn" |
        adveval -q -d "$D/test.tfrecord" --attacks clean - >eval.json
    assert_equal "$(pick eval.json '(j["model"]["label"], j["pruning"]["reg"], j["pruning"]["strategy"], j["pruning"]["rate"])')" \
        "('uniform:0.1', 'channel', 'uniform:0.1', 0.1)"
    assert_equal "$(pick eval.json 'abs(j["pruning"]["density"] - j["pruning"]["budget"]["masked"]) < 1e-12')" True
    maskapply -q -s uniform:0.1 -r channel -o pruned.nn "$D/net.nn"
    adveval -q -d "$D/test.tfrecord" --attacks clean pruned.nn | cmp - eval.json
}

@test "adveval: records hold no path, host or thread count" {
    mkdir -p deep/secret
    cp "$D/net.nn" "$D/test.tfrecord" deep/secret
    adveval -q -d deep/secret/test.tfrecord --attacks clean --threads 2 deep/secret/net.nn >a.json
    adveval -q -d "$D/test.tfrecord" --attacks clean --threads 1 "$D/net.nn" >b.json
    cmp a.json b.json
    run ! grep -e secret -e thread -e / a.json
}

@test "adveval: words go to stderr, one line per attack" {
    run --separate-stderr adveval -d "$D/test.tfrecord" $EPS --limit 50 --attacks clean,fgsm "$D/net.nn"
    assert_success
    assert_equal "$(printf '%s\n' "$output" | wc -l)" 1
    assert_equal "$(printf '%s\n' "$stderr" | grep -c '^adveval: [a-z]* accuracy [0-9.]* balanced [0-9.]* images [0-9]* sec ')" 2
}

@test "adveval: AutoAttack's record says what each part left, and is the same for any batch and threads" {
    local o="-q -d $D/test.tfrecord --eps 0.05 --limit 60 --iterations 20 --queries 40 --targets 3" args
    for args in "--threads 1 --batch 100" "--threads 4 --batch 7"; do
        adveval $o --attacks clean,fgsm,aa $args "$D/net.nn"
    done >eval.json
    assert_equal "$(sort -u eval.json | wc -l)" 1
    assert_equal "$(pick eval.json '{k: v for k, v in j["attacks"][2].items() if k in ("name", "norm", "eps", "steps", "restarts", "targets", "queries")}')" \
        "{'name': 'aa', 'norm': 'linf', 'eps': 0.05, 'steps': 20, 'restarts': 1, 'targets': 3, 'queries': 40}"
    assert_equal "$(pick eval.json '[p["name"] for p in j["attacks"][2]["parts"]]')" "['apgd-ce', 'apgd-t', 'fab-t', 'square']"
    # each part leaves no more than those before it, the last one what the record calls correct; fgsm leaves more
    assert_equal "$(pick eval.json '(lambda c: c == sorted(c)[::-1] and c[-1] == j["attacks"][2]["correct"] < j["attacks"][1]["correct"])([p["correct"] for p in j["attacks"][2]["parts"]])')" True
    run summarize eval.json
    assert_success
    assert_output --partial AutoAttack
}

@test "adveval: attacks in the l2 norm; what has none is refused" {
    adveval -q -d "$D/test.tfrecord" --eps 1 --norm l2 --limit 40 --iterations 20 --queries 200 \
        --attacks clean,apgd-ce,square "$D/net.nn" >eval.json
    assert_equal "$(pick eval.json '[a["norm"] for a in j["attacks"][1:]]')" "['l2', 'l2']"
    assert_equal "$(pick eval.json 'all(a["accuracy"] < j["attacks"][0]["accuracy"] - 10 for a in j["attacks"][1:])')" True
    summarize eval.json
    run -2 --separate-stderr adveval -d "$D/test.tfrecord" --norm l2 --attacks pgd20 "$D/net.nn"
    assert_regex "$stderr" "'pgd20' is an attack in the norm linf"
    run -2 --separate-stderr adveval -d "$D/test.tfrecord" --bn batch --attacks aa "$D/net.nn"
    assert_regex "$stderr" "'aa' needs running statistics"
    run -2 --separate-stderr adveval -d "$D/test.tfrecord" --eps 2 "$D/net.nn"
    assert_regex "$stderr" "--eps: 2 is more than 1"
}

@test "adveval: --outcomes and --confusion say of each image what the record counts" {
    adveval -q -d "$D/test.tfrecord" --eps 0.05 --limit 60 --stratified --attacks clean,pgd3,aa --iterations 10 \
        --queries 20 --targets 2 --outcomes out.tsv --confusion "$D/net.nn" >eval.json
    python3 - >checked <<'EOF'
import json
j = json.load(open("eval.json"))
lines = [l.split("\t") for l in open("out.tsv").read().splitlines()]
head, rows = lines[0], lines[1:]
assert head == ["image", "label", "clean", "pgd3", "aa", "aa-by"], head
assert [int(r[0]) for r in rows] == list(range(300))
parts = [p["name"] for p in j["attacks"][2]["parts"]]
for a in j["attacks"]:
    at = head.index(a["name"])
    seen = [r for r in rows if r[at] != "-"]
    assert len(seen) == a["images"], a["name"]
    assert sum(r[at] == r[1] for r in seen) == a["correct"], a["name"]
    for y in range(10):
        for k in range(10):
            assert a["confusion"][y][k] == sum(r[1] == str(y) and r[at] == str(k) for r in seen)
    assert a["top5"] >= a["accuracy"]
aa = [r for r in rows if r[4] != "-"]
for k, p in enumerate(j["attacks"][2]["parts"]):
    broken = ["clean"] + parts[: k + 1]
    assert p["correct"] == sum(r[5] not in broken for r in aa), p
assert all((r[5] == "clean") == (r[2] != r[1]) for r in aa)
print("fine")
EOF
    assert_equal "$(cat checked)" fine
    run -1 --separate-stderr adveval -d "$D/test.tfrecord" --attacks clean --outcomes nowhere/out.tsv -o new.json "$D/net.nn"
    assert_refused new.json
    run -2 --separate-stderr adveval -d "$D/test.tfrecord" --attacks clean --outcomes - "$D/net.nn"
}

@test "adveval: --curve is the share of images beyond each radius, --masking what the probes say" {
    adveval -q -d "$D/test.tfrecord" --eps 0.05 --limit 50 --attacks clean,fab-t --iterations 15 --targets 3 \
        --curve 0,0.02,0.05,1/2 --masking --outcomes out.tsv "$D/net.nn" >eval.json 2>stderr
    python3 - >checked <<'EOF'
import json
j = json.load(open("eval.json"))
rows = [l.split("\t") for l in open("out.tsv").read().splitlines()]
assert rows[0] == ["image", "label", "clean", "fab-t", "fab-t-by", "min-norm", "min-norm-by", "min-norm-norm"], rows[0]
rows = [r for r in rows[1:] if r[7] != "-"]
assert [a["name"] for a in j["attacks"]] == ["clean", "fab-t", "min-norm"]
fab, whole = j["attacks"][1:]
assert whole["correct"] == fab["correct"] == sum(float(r[7]) > 0.05 for r in rows)
curve = {c["eps"]: c["correct"] for c in whole["curve"]}
assert curve == {e: sum(float(r[7]) > e for r in rows) for e in (0, 0.02, 0.05, 0.5)}, curve
assert curve[0] == sum(r[2] == r[1] for r in rows) and curve[0.5] < curve[0.02]
lo, hi = whole["interval"]
assert lo < whole["accuracy"] < hi
assert set(j["masking"]) == {"loss", "white_box", "black_box", "large_eps", "flags"}
print("fine")
EOF
    assert_equal "$(cat checked)" fine
    run -2 --separate-stderr adveval -d "$D/test.tfrecord" --curve 0.1,x "$D/net.nn"
    assert_regex "$stderr" "--curve: 'x' is none of at most"
}

@test "adveval: --save-adv writes points that anyone can check: in the ball, and where the record counts them" {
    local attack
    for attack in pgd5 apgd-ce,aa; do
        adveval -q -d "$D/test.tfrecord" --eps 0.05 --step 0.02 --limit 40 --attacks clean,$attack --restarts 2 \
            --iterations 8 --queries 20 --targets 2 --save-adv adv.tfrecord --outcomes out.tsv "$D/net.nn" >eval.json
        tfrec-convert --dump adv.tfrecord >dump.json
        tfrec-convert --dump "$D/test.tfrecord" >images.json
        python3 - "$ROOT/test" "$D/test.tfrecord" >checked <<'EOF'
import json, sys
sys.path.insert(0, sys.argv[1])
import tfrecord
record = json.load(open("eval.json"))
name, eps = record["attacks"][-1]["name"], record["attacks"][-1]["eps"]
lines = [l.split("\t") for l in open("out.tsv").read().splitlines()]
outcome = {int(r[0]): r for r in lines[1:] if r[lines[0].index(name)] != "-"}
images = [tfrecord.example(r)["image/encoded"] for r in tfrecord.records(sys.argv[2])]
points = 0
for data in tfrecord.records("adv.tfrecord", 3):
    ex = tfrecord.example(data)
    row = outcome[ex["image/index"]]
    point, image = ex["image/adversarial"], images[ex["image/index"]]
    assert len(point) == len(image) == ex["image/height"] * ex["image/width"] * ex["image/channels"]
    assert all(0 <= p <= 1 and abs(p - b / 255) <= eps + 1e-6 for p, b in zip(point, image))
    assert int(row[1]) == ex["image/class/label"] and int(row[lines[0].index(name)]) == ex["image/class/given"]
    points += 1
assert points == 40
print("fine")
EOF
        assert_equal "$(cat checked)" fine
    done
    run -2 --separate-stderr adveval -d "$D/test.tfrecord" --attacks clean --save-adv adv.tfrecord "$D/net.nn"
}

@test "adveval --checkpoints: a record per network, the one of a run of its own; the images are read once" {
    local o="$EPS --limit 40 --stratified --attacks clean,pgd2,aa --iterations 3 --queries 4 --targets 2 --curve 0,0.1" n
    maskapply -q -s uniform:0.3 -r weight -o pruned.nn "$D/net.nn"
    for n in "$D/net.nn" pruned.nn "$D/net.nn"; do
        adveval -q -d "$D/test.tfrecord" --data-name D $o "$n"
    done >single.json
    adveval -q --checkpoints -d - --data-name D $o -o all.json "$D/net.nn" pruned.nn "$D/net.nn" <"$D/test.tfrecord"
    cmp single.json all.json
    run -0 summarize all.json
    run -2 --separate-stderr adveval -q -d "$D/test.tfrecord" "$D/net.nn" pruned.nn
    assert_regex "$stderr" "unexpected argument 'pruned.nn'"
    for o in "--label x" "--outcomes x.tsv" "--save-adv x.tfrecord" --serve; do
        run -2 adveval -q --checkpoints -d "$D/test.tfrecord" $o "$D/net.nn" pruned.nn
    done
    run -2 adveval -q --checkpoints -d "$D/test.tfrecord" "$D/net.nn" - <pruned.nn
}

@test "adveval --checkpoints: a network that cannot be measured is refused before the first is" {
    maskapply -q -s uniform:0.3 -r weight -o pruned.nn "$D/net.nn"
    head -c 2000 pruned.nn >cut.nn
    advtrain -q --threads 1 --arch resS --classes 12 -d "$D/train.tfrecord" --loss natural --limit 32 --epochs 1 -o other.nn
    local bad
    for bad in cut.nn other.nn missing.nn; do
        run --separate-stderr adveval --checkpoints -d "$D/test.tfrecord" $EPS -o all.json "$D/net.nn" "$bad"
        assert_refused all.json
        assert_regex "$stderr" "^adveval: $bad: "
    done
}

@test "adveval: eps and step are the published ones for the data set, and recorded" {
    told() { pick eval.json '(lambda a, o: (a["eps"], a["step"], o["eps"], o["step"]))(j["attacks"][0], j["history"]["options"])'; }
    local set want o
    for set in CIFAR10:0.0313725490196078,0.00784313725490196 SVHN:0.0313725490196078,0.00784313725490196 \
        ImageNet:0.0156862745098039,0.00392156862745098 FashionMNIST:0.1,0.025 \
        other:0.0313725490196078,0.00784313725490196; do
        want=${set#*:}
        adveval -q -d "$D/test.tfrecord" --data-name ${set%:*} --attacks pgd1 --limit 1 -o eval.json "$D/net.nn"
        assert_equal "$(told)" "(${want/,/, }, ${want/,/, })"
    done
    adveval -q -d "$D/test.tfrecord" --data-name FashionMNIST --eps 0.2 --attacks pgd1 --limit 1 -o eval.json "$D/net.nn"
    assert_equal "$(told)" "(0.2, 0.05, 0.2, 0.05)"
    adveval -q -d "$D/test.tfrecord" --eps 0.2 --step 0.01 --attacks pgd1 --limit 1 -o eval.json "$D/net.nn"
    assert_equal "$(told)" "(0.2, 0.01, 0.2, 0.01)"
    mkdir data # the manifest beside the images names them, too
    cp "$D/test.tfrecord" data
    printf '{"version": 1, "name": "FashionMNIST", "classes": 10, "shape": {"channels": 1, "height": 28, "width": 28}, "splits": {}}' \
        >data/manifest.json
    adveval -q -d data/test.tfrecord --attacks pgd1 --limit 1 -o eval.json "$D/net.nn"
    assert_equal "$(told)" "(0.1, 0.025, 0.1, 0.025)"
}
