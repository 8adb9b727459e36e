# maskapply and ddpg-search count the same budgets: what one wrote, the other confirms to the last digits.
setup() {
    load ../helpers
    # An evaluator for any network: worth is the mean keep-rate, which fills every budget.
    cat >evaluator.py <<'P'
import json, sys
reg, table = sys.argv[1], json.load(open(sys.argv[2]))
layers = [{"name": l["name"], "n": l["weights"] if reg == "weight" else l["in"]}
          for l in table["layers"] if reg == "weight" or l["tie"] is None]
print(json.dumps({"proto": 1, "reg": reg, "layers": layers, "batches": 1, "images": 1000, "digest": "0" * 64}), flush=True)
for line in sys.stdin:
    q = json.loads(line)
    good = int(1000 * sum(k / l["n"] for k, l in zip(q["kept"], layers)) / len(layers))
    print(json.dumps({"id": q["id"], "n": 1000, "clean": good, "robust": good, "params": 1, "macs": 1}), flush=True)
P
}

@test "maskapply: a searched strategy costs what its file says, in every measure, for every kind of shortcut" {
    local arch reg measure
    for arch in resS vgg2 resnet18 wrn_28_4; do
        "$(dirname "$BIN")/test/mknn" $arch 1 net.nn
        nninfo --format json -o layers.json net.nn
        for reg in weight channel; do
            ddpg-search -q -l layers.json -r $reg -t 0.3 --warmup 2 -n 1 --hidden 8 --id search-0 -o s.json \
                -e "python3 evaluator.py $reg layers.json"
            for measure in inout masked macs; do
                # without the rate, which was a budget in inout only: the written budgets alone are held against
                # what maskapply counts, both ways
                python3 - s.json >t.json <<'P'
import json, sys
j = json.load(open(sys.argv[1]))
for reg in j.values():
    for ids in reg.values():
        del ids["search-0"]["budget"]["target"]
print(json.dumps(j))
P
                run --separate-stderr maskapply -q --plan -r $reg -s t.json --budget-measure $measure \
                    --budget-tolerance 1e-9 -o /dev/null net.nn
                assert_success
                assert_equal "$stderr" ""
            done
            # within the budget of the uniform rate, with no tolerance at all
            maskapply -q --plan -r $reg -s s.json --target 0.3 --budget-tolerance 0 -o /dev/null net.nn
        done
    done
}
